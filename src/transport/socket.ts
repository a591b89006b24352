/**
 * @file Links over TCP (`tcp://127.0.0.1:7001`) and Unix sockets (`unix:///run/x.sock`). Bytes are read
 * with `onread` into memory of our own, which is several times faster than `data` events, and frames of
 * one turn of the event loop leave in one system call.
 */
import { existsSync, rmSync } from "node:fs";
import {
  createServer,
  isIP,
  type ListenOptions,
  type OnReadOpts,
  type Server,
  Socket,
} from "node:net";
import { setCongestionControl } from "../native/index.ts";
import { rpcError } from "./errors.ts";
import { type Frame, headerBytes, writeHeader } from "./frame.ts";
import type { Link, LinkEvents, Listener, Transport } from "./link.ts";
import { FrameReader } from "./reader.ts";

/** Bytes that may wait to go out before a link is not `writable`. */
const waitingBytesMax = 4 * 2 ** 20;
const scratchBytes = 256 * 1024;
/** Parts below this are copied into one buffer rather than handed over one by one. */
const copiedBytesMax = 4096;

/** What a socket link needs to know. */
export interface SocketOptions {
  readonly dataBytesMax: number;
  /** Allows TCP addresses beyond loopback. */
  readonly exposed?: boolean;
}

type Handle = object & { fd?: number };

/** Node's own object under a socket: taking it lets an accepted socket read into memory of ours. */
function takeHandle(socket: Socket): Handle | undefined {
  const holder = socket as unknown as { _handle?: Handle | null };
  const handle = holder._handle ?? undefined;
  if (handle !== undefined) holder._handle = null;
  return handle;
}

/** Loopback loses nothing, so nothing is gained by pacing; a refusal leaves the system's choice. */
function useReno(socket: Socket): void {
  const handle = (socket as unknown as { _handle?: Handle | null })._handle;
  if (handle?.fd !== undefined && handle.fd >= 0) setCongestionControl(handle.fd, "reno");
}

/** A link over a socket whose bytes go through a `FrameReader`. */
class SocketLink implements Link {
  readonly peer: string;
  private socket: Socket | undefined;
  private reader: FrameReader | undefined;
  private events: LinkEvents | undefined;
  private isEnded = false;
  private isCorked = false;
  private waiters: (() => void)[] = [];
  private readonly scratch = new Uint8Array(scratchBytes);
  /** Runs after each write: a busy socket says `drain` only once nothing at all is left. */
  private readonly wake = (): void => {
    if (this.waiters.length === 0 || !this.writable) return;
    for (const waiter of this.waiters.splice(0)) waiter();
  };
  private readonly dataBytesMax: number;
  private readonly open: (onread: OnReadOpts) => Socket;

  constructor(peer: string, dataBytesMax: number, open: (onread: OnReadOpts) => Socket) {
    this.peer = peer;
    this.dataBytesMax = dataBytesMax;
    this.open = open;
  }

  get writable(): boolean {
    return this.isEnded || (this.socket?.writableLength ?? 0) < waitingBytesMax;
  }

  drained(): Promise<void> {
    if (this.writable) return Promise.resolve();
    return new Promise((resolve) => this.waiters.push(resolve));
  }

  start(events: LinkEvents): void {
    this.events = events;
    this.reader = new FrameReader(events, this.dataBytesMax, this.scratch);
    const socket = this.open({
      // Node asks for the memory of the next read after each one.
      buffer: () => this.reader?.next ?? this.scratch,
      callback: (count, bytes) => this.took(count, bytes),
    });
    this.socket = socket;
    socket.on("error", (error) => this.ended(error));
    socket.on("end", () => this.atEnd());
    socket.on("close", () => this.ended());
    socket.setNoDelay(true);
    if (/^tcp:\/\/(127\.|localhost|\[?::1)/.test(this.peer)) useReno(socket);
    socket.resume();
  }

  send(frame: Frame): void {
    const { socket } = this;
    if (socket === undefined || this.isEnded) return;
    if (!this.isCorked) {
      this.isCorked = true;
      socket.cork();
      queueMicrotask(() => {
        this.isCorked = false;
        socket.uncork();
      });
    }
    const { meta, data } = frame;
    const isSmall = data.length <= copiedBytesMax;
    const head = Buffer.allocUnsafe(headerBytes + meta.length + (isSmall ? data.length : 0));
    writeHeader(frame, head);
    head.set(meta, headerBytes);
    if (isSmall) head.set(data, headerBytes + meta.length);
    if (isSmall) socket.write(head, this.wake);
    else {
      socket.write(head);
      socket.write(data, this.wake);
    }
  }

  close(): void {
    const { socket } = this;
    if (socket === undefined) this.ended();
    else socket.end(() => socket.destroy());
  }

  private took(count: number, bytes: Uint8Array): boolean {
    try {
      this.reader!.filled(bytes, count);
    } catch (error) {
      this.fail(error as Error);
      return false;
    }
    return true;
  }

  private atEnd(): void {
    try {
      this.reader?.end();
      this.ended();
    } catch (error) {
      this.fail(error as Error);
    }
  }

  private fail(error: Error): void {
    this.ended(error);
    this.socket?.destroy();
  }

  private ended(error?: Error): void {
    if (this.isEnded) return;
    this.isEnded = true;
    this.events?.closed(error);
    this.wake();
    this.socket?.destroySoon();
  }
}

/** Host and port of a `tcp:` address, or the path of a `unix:` one. */
function parse(
  address: string,
  exposed: boolean,
): { host: string; port: number } | { path: string } {
  let url: URL | undefined;
  try {
    url = new URL(address);
  } catch {
    url = undefined;
  }
  if (url?.protocol === "unix:" && url.pathname.length > 1 && url.host === "") {
    const path = decodeURIComponent(url.pathname);
    // The kernel's limit on a socket's path.
    if (Buffer.byteLength(path) <= 107) return { path };
    throw rpcError(
      "rpc-address-invalid",
      `${address} is longer than 107 bytes: use a shorter path.`,
    );
  }
  const host = url?.hostname.replace(/^\[|\]$/g, "") ?? "";
  if (url?.protocol === "tcp:" && host !== "" && url.port !== "") {
    const isLoopback = host === "localhost" || host === "::1" || /^127\./.test(host);
    if (!isLoopback && !exposed) {
      const words = `${address} is not on loopback: ask for it with \`exposed\`.`;
      throw rpcError("rpc-address-invalid", words);
    }
    return { host, port: Number(url.port) };
  }
  const forms = "tcp://127.0.0.1:7001 or unix:///run/name.sock";
  throw rpcError("rpc-address-invalid", `${address} is no address: write ${forms}.`);
}

/** Listens and connects over sockets of either kind. */
export class SocketTransport implements Transport {
  readonly scheme: "tcp:" | "unix:";
  private readonly options: SocketOptions;

  constructor(scheme: "tcp:" | "unix:", options: SocketOptions) {
    this.scheme = scheme;
    this.options = options;
  }

  /** See `Transport.listen`. Port 0 chooses one. A Unix socket that nobody serves is replaced. */
  async listen(address: string, accept: (link: Link) => void): Promise<Listener> {
    const place = parse(address, this.options.exposed ?? false);
    if ("path" in place) await this.removeStale(address, place.path);
    const sockets = new Set<Socket>();
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: false }, (socket) => {
      const peer = socket.remoteAddress
        ? `tcp://${socket.remoteAddress}:${socket.remotePort}`
        : `${address} (caller)`;
      const link = new SocketLink(peer, this.options.dataBytesMax, (onread) => {
        const handle = takeHandle(socket);
        const fast =
          handle && new Socket({ handle, onread, readable: true, writable: true } as object);
        const used = fast ?? fallBack(socket, onread);
        sockets.add(used);
        used.on("close", () => sockets.delete(used));
        return used;
      });
      accept(link);
    });
    await listening(server, address, place);
    const bound = server.address();
    const port = typeof bound === "object" && bound !== null ? bound.port : 0;
    return {
      address: "path" in place ? address : `tcp://${bracketed(place.host)}:${port}`,
      close: async () => {
        // Its callback would wait for the sockets whose handles were taken, so nobody waits for it.
        server.close();
        for (const socket of sockets) socket.destroy();
      },
    };
  }

  /** See `Transport.connect`. */
  async connect(address: string): Promise<Link> {
    const place = parse(address, true);
    // The reading end is set up before the connection is, since Node wants `onread` from the start.
    let reading: OnReadOpts | undefined;
    const first = new Uint8Array(65536);
    const onread: OnReadOpts = {
      buffer: () => (reading?.buffer as (() => Uint8Array) | undefined)?.() ?? first,
      callback: (count, bytes) => reading?.callback(count, bytes) ?? true,
    };
    const socket = new Socket({ onread } as object);
    socket.pause();
    await new Promise<void>((resolve, reject) => {
      socket.once("error", (cause) => {
        const why = (cause as NodeJS.ErrnoException).code ?? cause.message;
        const words = `nobody answers at ${address} (${why}): start the service, or check the address.`;
        reject(rpcError("rpc-unreachable", words, cause));
      });
      socket.connect("path" in place ? { path: place.path } : place, resolve);
    });
    socket.removeAllListeners("error");
    // Errors before `start` are seen again as `close`.
    socket.on("error", () => {});
    return new SocketLink(address, this.options.dataBytesMax, (onread) => {
      reading = onread;
      return socket;
    });
  }

  private async removeStale(address: string, path: string): Promise<void> {
    if (!existsSync(path)) return;
    const link = await this.connect(address).catch(() => undefined);
    if (link === undefined) {
      rmSync(path, { force: true });
      return;
    }
    link.start({ place: () => undefined, frame: () => {}, closed: () => {} });
    link.close();
    throw rpcError("rpc-unreachable", `${address} is served already: stop that service first.`);
  }
}

function bracketed(host: string): string {
  return isIP(host) === 6 ? `[${host}]` : host;
}

/** Without Node's handle: copies what `data` events bring, slower but the same. */
function fallBack(socket: Socket, onread: OnReadOpts): Socket {
  socket.on("data", (chunk: Buffer) => {
    for (let at = 0; at < chunk.length; ) {
      const target = (onread.buffer as () => Uint8Array)();
      const count = Math.min(target.length, chunk.length - at);
      target.set(chunk.subarray(at, at + count));
      at += count;
      if (!onread.callback(count, target)) return;
    }
  });
  return socket;
}

function listening(server: Server, address: string, place: ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause) => {
      const why = (cause as NodeJS.ErrnoException).code ?? cause.message;
      const words = `${address} can't be listened at (${why}): choose another, or stop who does.`;
      reject(rpcError("rpc-unreachable", words, cause));
    });
    server.listen(place, resolve);
  });
}
