/** @file One answer being written: its text, its timing, and how to stop it. */
import { useRef, useState } from "preact/hooks";
import { type CompletionRequest, complete, type Ending, type Piece } from "./api.ts";

/** An answer, while it is written and after. */
export interface Answer {
  readonly prompt: string;
  readonly pieces: readonly Piece[];
  readonly state: "waiting" | "writing" | "done" | "stopped" | "failed";
  /** Milliseconds from the request to the first text. */
  readonly firstMs: number | undefined;
  /** Tokens a second after the first. */
  readonly perS: number | undefined;
  readonly tokens: number;
  readonly ending: Ending | undefined;
  readonly error: string | undefined;
}

/** Starts and stops answers. */
export interface Writer {
  readonly answer: Answer | undefined;
  readonly isBusy: boolean;
  readonly write: (request: CompletionRequest) => Promise<void>;
  readonly stop: () => void;
  readonly clear: () => void;
}

/** Milliseconds between two drawings of an answer: no eye reads faster. */
const drawMs = 40;

/** Holds the latest answer. */
export function useWriter(): Writer {
  const [answer, setAnswer] = useState<Answer>();
  const controller = useRef<AbortController>(undefined);

  const write = async (request: CompletionRequest): Promise<void> => {
    controller.current?.abort();
    const mine = new AbortController();
    controller.current = mine;
    const record = new Recording(request.prompt);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const draw = (): void => {
      clearTimeout(timer);
      timer = undefined;
      if (controller.current === mine) setAnswer(record.answer);
    };
    draw();
    try {
      const ending = await complete(
        request,
        (piece) => {
          record.add(piece);
          timer ??= setTimeout(draw, drawMs);
        },
        mine.signal,
      );
      record.end({ state: "done", ending, tokens: ending.completionTokens });
    } catch (error) {
      if (mine.signal.aborted) record.end({ state: "stopped" });
      else record.end({ state: "failed", error: (error as Error).message });
    }
    draw();
  };

  return {
    answer,
    isBusy: answer?.state === "waiting" || answer?.state === "writing",
    write,
    stop: () => controller.current?.abort(),
    clear: () => setAnswer(undefined),
  };
}

/** Grows an answer and times it. */
class Recording {
  answer: Answer;
  private readonly startMs = performance.now();
  private firstAtMs = 0;
  private firstTokens = 0;

  constructor(prompt: string) {
    this.answer = {
      prompt,
      pieces: [],
      state: "waiting",
      firstMs: undefined,
      perS: undefined,
      tokens: 0,
      ending: undefined,
      error: undefined,
    };
  }

  add(piece: Piece): void {
    const now = performance.now();
    const tokens = this.answer.tokens + piece.tokens;
    let { firstMs, perS } = this.answer;
    if (firstMs === undefined) {
      firstMs = now - this.startMs;
      this.firstAtMs = now;
      this.firstTokens = tokens;
    } else if (now > this.firstAtMs) {
      perS = ((tokens - this.firstTokens) / (now - this.firstAtMs)) * 1000;
    }
    const pieces = piece.text === "" ? this.answer.pieces : [...this.answer.pieces, piece];
    this.answer = { ...this.answer, pieces, tokens, firstMs, perS, state: "writing" };
  }

  end(last: Partial<Answer>): void {
    this.answer = { ...this.answer, ...last };
  }
}
