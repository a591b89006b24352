/**
 * @file What a transport gives to the RPC layer: links, which carry frames between two ends. A link may
 * lose, double or reorder frames (the tests' network does); it never changes one.
 */
import type { Frame, Header } from "./frame.ts";

/** What the owner of a link is told. Calls come one after the other, never from inside `send`. */
export interface LinkEvents {
  /**
   * Where the data of the frame that is arriving should go: exactly `header.dataBytes` bytes, or
   * undefined for memory of its own.
   */
  place(header: Header): Uint8Array | undefined;
  frame(frame: Frame): void;
  /** The link is gone; called once. `error` is absent where this or the other end closed it. */
  closed(error?: Error): void;
}

/** One end of a connection. */
export interface Link {
  /** The other end, for messages. */
  readonly peer: string;
  /** Sets who is told; called once, before anything arrives. */
  start(events: LinkEvents): void;
  /** Sends a frame; its bytes must not change until it is out. No error: a dead link says `closed`. */
  send(frame: Frame): void;
  /** Whether so little waits to go out that more is welcome. */
  readonly writable: boolean;
  /** Resolves once `writable`, or closed. */
  drained(): Promise<void>;
  /** Ends the link after what has been sent; `closed` follows. */
  close(): void;
}

/** What listens at an address. */
export interface Listener {
  /** The address to connect to, with the port that was chosen. */
  readonly address: string;
  /** Stops listening; whether links that exist stay is the transport's choice. */
  close(): Promise<void>;
}

/** A way to carry frames. */
export interface Transport {
  /** The addresses' beginning, such as `tcp:`. */
  readonly scheme: string;
  /** Listens at `address`. Throws `rpc-address-invalid`, `rpc-unreachable`. */
  listen(address: string, accept: (link: Link) => void): Promise<Listener>;
  /** Opens a link to `address`. Throws `rpc-address-invalid`, `rpc-unreachable`. */
  connect(address: string): Promise<Link>;
}
