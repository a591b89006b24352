/**
 * @file Links inside one process: `memory:NAME`. Frames pass through the same header code as on any
 * wire, and bytes are copied, so that neither end sees the other's memory.
 */
import { rpcError } from "./errors.ts";
import {
  bodyBytesOf,
  checkBody,
  type Frame,
  headerBytes,
  readHeader,
  writeHeader,
} from "./frame.ts";
import type { Link, LinkEvents, Listener, Transport } from "./link.ts";

/** The frame as the other end gets it: encoded, decoded, checked, copied to where it is wanted. */
export function passFrame(frame: Frame, events: LinkEvents, dataBytesMax: number): Frame {
  const bytes = new Uint8Array(headerBytes);
  writeHeader(frame, bytes);
  const header = readHeader(bytes, dataBytesMax);
  const dataBytes = bodyBytesOf(header) - header.metaBytes;
  const data = (dataBytes > 0 && events.place(header)) || new Uint8Array(dataBytes);
  data.set(frame.data);
  const meta = frame.meta.slice();
  checkBody(header, meta, data);
  return { ...header, meta, data };
}

class InProcessLink implements Link {
  readonly peer: string;
  other: InProcessLink | undefined;
  private events: LinkEvents | undefined;
  private readonly early: Frame[] = [];
  private ended = false;
  private waiting = 0;

  constructor(peer: string) {
    this.peer = peer;
  }

  get writable(): boolean {
    return this.ended || (this.other?.waiting ?? 0) < 64;
  }

  async drained(): Promise<void> {
    while (!this.writable) await new Promise((resolve) => setImmediate(resolve));
  }

  start(events: LinkEvents): void {
    this.events = events;
    for (const frame of this.early.splice(0)) this.arrive(frame);
  }

  send(frame: Frame): void {
    const { other } = this;
    if (this.ended || other === undefined) return;
    other.waiting++;
    queueMicrotask(() => {
      other.waiting--;
      other.arrive(frame);
    });
  }

  close(): void {
    if (this.ended) return;
    this.ended = true;
    const { other } = this;
    queueMicrotask(() => {
      this.events?.closed();
      other?.peerClosed();
    });
  }

  private arrive(frame: Frame): void {
    if (this.ended) return;
    if (this.events === undefined) this.early.push(frame);
    else this.events.frame(passFrame(frame, this.events, 2 ** 32 - 1));
  }

  private peerClosed(): void {
    if (this.ended) return;
    this.ended = true;
    this.events?.closed();
  }
}

/** Names that are listened to in this process; each instance is a world of its own. */
export class InProcessTransport implements Transport {
  readonly scheme = "memory:";
  private readonly accepts = new Map<string, (link: Link) => void>();

  /** See `Transport.listen`. */
  async listen(address: string, accept: (link: Link) => void): Promise<Listener> {
    if (this.accepts.has(address)) {
      throw rpcError("rpc-unreachable", `${address} is taken: choose another name.`);
    }
    this.accepts.set(address, accept);
    return {
      address,
      close: async () => {
        this.accepts.delete(address);
      },
    };
  }

  /** See `Transport.connect`. */
  async connect(address: string): Promise<Link> {
    const accept = this.accepts.get(address);
    if (accept === undefined) {
      throw rpcError("rpc-unreachable", `nobody listens at ${address}: start the service.`);
    }
    const [near, far] = [new InProcessLink(address), new InProcessLink(`${address} (caller)`)];
    near.other = far;
    far.other = near;
    accept(far);
    return near;
  }
}
