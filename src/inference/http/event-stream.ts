/** @file A server-sent event stream with a bounded buffer. */

/** How far a reader may fall behind, in bytes, before its writer waits. */
const bufferBytes = 256 * 1024;

/** Headers of a stream that no cache or proxy should hold back. */
export const eventStreamHeaders: Readonly<Record<string, string>> = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache, no-transform",
  "x-accel-buffering": "no",
};

/** Text goes in at one end, UTF-8 bytes come out of `readable` at the reader's pace. */
export class EventStream {
  readonly readable: ReadableStream<Uint8Array>;
  private readonly stallMs: number;
  private readonly onGone: () => void;
  private controller!: ReadableStreamDefaultController<Uint8Array>;
  private open = true;
  private resume: (() => void) | undefined;

  /** `onGone`: the reader left, or did not catch up within `stallMs`, before `end`. */
  constructor(stallMs: number, onGone: () => void) {
    this.stallMs = stallMs;
    this.onGone = onGone;
    this.readable = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.controller = controller;
        },
        pull: () => this.resume?.(),
        cancel: () => this.leave(),
      },
      { highWaterMark: bufferBytes, size: (piece) => piece!.byteLength },
    );
  }

  /** Sends `text`; returns a promise to wait for where the reader is too far behind. */
  write(text: string): Promise<void> | undefined {
    if (!this.open) return undefined;
    this.controller.enqueue(Buffer.from(text));
    return this.controller.desiredSize! > 0 ? undefined : this.whenTaken();
  }

  /** Ends the stream after what was written. */
  end(): void {
    if (!this.open) return;
    this.open = false;
    this.controller.close();
  }

  private whenTaken(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        if (!this.open) return;
        const cause = new Error("an answer's reader did not catch up in time and was cut off");
        // The socket's adaptor logs it: where it came from is no news.
        cause.stack = cause.message;
        this.controller.error(cause);
        this.leave();
      }, this.stallMs);
      const before = this.resume;
      this.resume = () => {
        clearTimeout(timer);
        this.resume = undefined;
        before?.();
        resolve();
      };
    });
  }

  private leave(): void {
    if (!this.open) return;
    this.open = false;
    this.resume?.();
    this.onGone();
  }
}
