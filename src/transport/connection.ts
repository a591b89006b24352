/**
 * @file Calls over a link, both ways: ids, deadlines, cancellation, credits, errors as values on the
 * wire. Data above 64 KiB is announced first; its receiver grants a credit once its budget has room,
 * and only then the pieces travel. So a receiver's memory is bounded by calls in flight times 64 KiB,
 * plus its budget. Answers need no credit: who asks has room.
 */
import { BaleenError, type Clock, type RetryAdvice, realClock } from "../base/index.ts";
import { Budget } from "./budget.ts";
import { rpcError } from "./errors.ts";
import {
  type Frame,
  frameFlags,
  frameKinds,
  type Header,
  makeFrame,
  pieceBytesMax,
} from "./frame.ts";
import type { Link } from "./link.ts";

/** What a call and its handler know besides the message. */
export interface CallOptions {
  /** Milliseconds until the caller gives up; absent for never. */
  readonly deadlineMs?: number;
  /** Cancels the call. */
  readonly signal?: AbortSignal;
  /** Follows a request through all services. */
  readonly traceId?: number;
  /** Where data of the answer goes, if it has exactly this size. */
  readonly into?: Uint8Array;
  /** Leaves data out of the frames' checksum: the service carries one of its own. */
  readonly ownChecksum?: boolean;
}

/** What travels there and back. */
export interface Message {
  readonly meta: Uint8Array;
  readonly data: Uint8Array;
  readonly ownChecksum?: boolean;
}

/** A request as its handler sees it. */
export interface IncomingCall extends Message {
  readonly service: number;
  readonly method: number;
  readonly traceId: number;
  /** Aborted when the caller gave up, its deadline passed, or its connection ended. */
  readonly signal: AbortSignal;
  /** Milliseconds that the caller still waits; absent for ever. */
  readonly deadlineMs?: number;
  readonly peer: string;
}

/** Answers requests; what it throws crosses the wire as a `BaleenError`. */
export type Handler = (call: IncomingCall) => Promise<Message>;

/** The bounds of a connection. */
export interface ConnectionOptions {
  readonly handler?: Handler;
  readonly clock?: Clock;
  /** Calls in flight at once, each way (512); both ends should agree. More wait in line. */
  readonly inFlightMax?: number;
  /** The largest data of one message (64 MiB). */
  readonly dataBytesMax?: number;
  /** Bytes of announced requests that may be under way; shared between connections. */
  readonly budget?: Budget;
}

/** The largest data that travels with its request, without a credit. */
const inlineBytesMax = 65536;
/** The default of `ConnectionOptions.dataBytesMax`. */
export const dataBytesMaxDefault: number = 64 * 2 ** 20;
const inFlightMaxDefault = 512;
const budgetBytesDefault = 256 * 2 ** 20;
/** Calls that may wait for a slot, for each slot. */
const waitingPerSlot = 32;

interface Pending {
  readonly options: CallOptions;
  readonly request: Message;
  readonly resolve: (message: Message) => void;
  readonly reject: (error: Error) => void;
  /** The announced answer, whose pieces are arriving. */
  answer?: Pieces & { meta: Uint8Array };
  sendingPieces?: boolean;
}

/** Data that arrives in pieces. */
interface Pieces {
  readonly data: Uint8Array;
  /** One flag a piece, since a network may double them. */
  readonly came: Uint8Array;
  left: number;
}

interface Serving {
  readonly header: Header;
  readonly meta: Uint8Array;
  pieces?: Pieces;
  controller?: AbortController;
  ended?: boolean;
  /** Undoes whatever is held: timer, place in line, budget. */
  release: (() => void)[];
}

const empty = new Uint8Array(0);

function newPieces(data: Uint8Array): Pieces {
  const count = Math.ceil(data.length / pieceBytesMax);
  return { data, came: new Uint8Array(count), left: count };
}

/** Where the piece that `header` describes belongs, or undefined where it fits nowhere. */
function placeOfPiece(pieces: Pieces | undefined, header: Header): Uint8Array | undefined {
  const { argument: offset, dataBytes } = header;
  if (pieces === undefined || offset % pieceBytesMax !== 0) return undefined;
  const wanted = Math.min(pieceBytesMax, pieces.data.length - offset);
  if (dataBytes !== wanted || pieces.came[offset / pieceBytesMax]) return undefined;
  return pieces.data.subarray(offset, offset + dataBytes);
}

/** One end of a connection. It calls, and where it has a handler it answers. */
export class Connection {
  /** The other end, for messages. */
  readonly peer: string;
  /** Resolves when the connection is gone. */
  readonly closed: Promise<void>;
  private readonly link: Link;
  private readonly handler: Handler | undefined;
  private readonly clock: Clock;
  private readonly inFlightMax: number;
  private readonly dataBytesMax: number;
  private readonly budget: Budget;
  private readonly slots: Budget;
  private readonly pending = new Map<number, Pending>();
  private readonly serving = new Map<number, Serving>();
  private nextId = 1;
  private end: Error | undefined;
  private resolveClosed: () => void = () => {};

  constructor(link: Link, options: ConnectionOptions = {}) {
    this.link = link;
    this.peer = link.peer;
    this.handler = options.handler;
    this.clock = options.clock ?? realClock;
    this.inFlightMax = options.inFlightMax ?? inFlightMaxDefault;
    this.dataBytesMax = options.dataBytesMax ?? dataBytesMaxDefault;
    this.budget = options.budget ?? new Budget(budgetBytesDefault);
    this.slots = new Budget(this.inFlightMax);
    this.closed = new Promise((resolve) => {
      this.resolveClosed = resolve;
    });
    link.start({
      place: (header) => this.place(header),
      frame: (frame) => this.take(frame),
      closed: (error) => this.finish(error),
    });
  }

  /** Whether calls still have a chance. */
  get isOpen(): boolean {
    return this.end === undefined;
  }

  /** Ends the connection; calls in flight fail with `rpc-closed`. */
  close(): void {
    this.finish(undefined);
    this.link.close();
  }

  /**
   * Calls a method of the other end. Throws the service's own errors, `rpc-closed`,
   * `rpc-deadline-exceeded`, `rpc-cancelled`, `rpc-overloaded`, `rpc-too-large`. After an error with
   * the advice `same` the call may or may not have taken effect.
   */
  call(
    service: number,
    method: number,
    request: Message,
    options: CallOptions = {},
  ): Promise<Message> {
    return new Promise((resolve, reject) => {
      const refusal = this.refusalOf(request, options);
      if (refusal !== undefined) {
        reject(refusal);
        return;
      }
      const id = this.nextId++;
      let held = false;
      const undo: (() => void)[] = [];
      const settle = () => {
        this.pending.delete(id);
        for (const step of undo) step();
        if (held) this.slots.give(1);
      };
      const fail = (error: Error) => {
        settle();
        reject(error);
      };
      const entry: Pending = {
        options,
        request,
        resolve: (message) => {
          settle();
          resolve(message);
        },
        reject: fail,
      };
      const abandon = (error: Error) => {
        if (held && this.end === undefined) {
          this.link.send(makeFrame({ kind: frameKinds.cancel, requestId: id }));
        }
        fail(error);
      };
      this.pending.set(id, entry);
      this.limit(options, undo, abandon);
      const startMs = this.clock.now();
      const leave = this.slots.take(1, () => {
        held = true;
        this.sendRequest(id, service, method, request, options, startMs);
      });
      undo.push(leave);
    });
  }

  private refusalOf(request: Message, options: CallOptions): Error | undefined {
    if (this.end !== undefined) return this.end;
    if (options.signal?.aborted) return cancelled();
    if (request.data.length > this.dataBytesMax) {
      const sizes = `${request.data.length} bytes of ${this.dataBytesMax}`;
      return rpcError("rpc-too-large", `data of a call has ${sizes}: send less at once.`);
    }
    if (this.slots.waiting >= this.inFlightMax * waitingPerSlot) {
      return rpcError("rpc-overloaded", `too many calls wait for ${this.peer}: try again later.`);
    }
    return undefined;
  }

  /** Arms deadline and cancellation. */
  private limit(options: CallOptions, undo: (() => void)[], abandon: (error: Error) => void): void {
    const { deadlineMs, signal } = options;
    if (deadlineMs !== undefined) {
      const expire = () => abandon(expired(this.peer, deadlineMs));
      undo.push(this.clock.after(deadlineMs, expire));
    }
    if (signal !== undefined) {
      const abort = () => abandon(cancelled());
      signal.addEventListener("abort", abort, { once: true });
      undo.push(() => signal.removeEventListener("abort", abort));
    }
  }

  private sendRequest(
    id: number,
    service: number,
    method: number,
    request: Message,
    options: CallOptions,
    startMs: number,
  ): void {
    const { deadlineMs, traceId = 0 } = options;
    const leftMs = deadlineMs === undefined ? 0 : deadlineMs - (this.clock.now() - startMs);
    const fields = {
      kind: frameKinds.request,
      flags: request.ownChecksum || options.ownChecksum ? frameFlags.ownChecksum : 0,
      service,
      method,
      argument: deadlineMs === undefined ? 0 : Math.min(2 ** 31, Math.max(1, Math.ceil(leftMs))),
      requestId: id,
      traceId,
      meta: request.meta,
    };
    const announced = request.data.length > inlineBytesMax;
    const frame = announced
      ? makeFrame(fields, request.data.length)
      : makeFrame({ ...fields, data: request.data });
    this.link.send(frame);
  }

  private place(header: Header): Uint8Array | undefined {
    const { requestId, flags } = header;
    if (header.kind === frameKinds.response) {
      const into = this.pending.get(requestId)?.options.into;
      return into?.length === header.dataBytes ? into : undefined;
    }
    if (header.kind !== frameKinds.data) return undefined;
    const pieces =
      flags & frameFlags.reply
        ? this.pending.get(requestId)?.answer
        : this.serving.get(requestId)?.pieces;
    return placeOfPiece(pieces, header);
  }

  private take(frame: Frame): void {
    if (this.end !== undefined) return;
    if (frame.kind === frameKinds.request) this.takeRequest(frame);
    else if (frame.kind === frameKinds.response) this.takeResponse(frame);
    else if (frame.kind === frameKinds.cancel) this.drop(frame.requestId, cancelled());
    else if (frame.kind === frameKinds.credit) this.takeCredit(frame);
    else this.takePiece(frame);
  }

  private takeRequest(frame: Frame): void {
    const { requestId } = frame;
    if (this.serving.has(requestId)) return;
    if (this.handler === undefined) {
      const words = `${this.peer} was called but serves nothing: connect to a service.`;
      this.sendError(requestId, rpcError("rpc-method-unknown", words));
      return;
    }
    if (this.serving.size >= this.inFlightMax) {
      const words = `more than ${this.inFlightMax} calls at once on one connection: wait for answers.`;
      this.sendError(requestId, rpcError("rpc-overloaded", words));
      return;
    }
    const serving: Serving = { header: frame, meta: frame.meta, release: [] };
    this.serving.set(requestId, serving);
    if (frame.argument > 0) {
      const expire = () => this.drop(requestId, expired(this.peer, frame.argument));
      serving.release.push(this.clock.after(frame.argument, expire));
    }
    if (!(frame.flags & frameFlags.announced)) {
      void this.serve(requestId, serving, frame.data);
      return;
    }
    const bytes = frame.dataBytes;
    const leave = this.budget.take(bytes, () => {
      serving.release.push(() => this.budget.give(bytes));
      serving.pieces = newPieces(new Uint8Array(bytes));
      const credit = { kind: frameKinds.credit, requestId, argument: bytes };
      this.link.send(makeFrame(credit));
    });
    serving.release.push(leave);
  }

  private takeResponse(frame: Frame): void {
    const pending = this.pending.get(frame.requestId);
    if (pending === undefined) return;
    if (frame.flags & frameFlags.failed) {
      pending.reject(errorFrom(frame.meta));
      return;
    }
    const ownChecksum = (frame.flags & frameFlags.ownChecksum) !== 0;
    if (!(frame.flags & frameFlags.announced)) {
      pending.resolve({ meta: frame.meta, data: frame.data, ownChecksum });
      return;
    }
    if (pending.answer !== undefined) return;
    const { into } = pending.options;
    const data = into?.length === frame.dataBytes ? into : new Uint8Array(frame.dataBytes);
    pending.answer = { ...newPieces(data), meta: frame.meta };
  }

  private takeCredit(frame: Frame): void {
    const pending = this.pending.get(frame.requestId);
    if (pending === undefined || pending.sendingPieces) return;
    pending.sendingPieces = true;
    const isWanted = () => this.pending.get(frame.requestId) === pending;
    void this.sendPieces(frame.requestId, pending.request, 0, isWanted);
  }

  private takePiece(frame: Frame): void {
    const { requestId, argument: offset } = frame;
    const pending = frame.flags & frameFlags.reply ? this.pending.get(requestId) : undefined;
    const serving = frame.flags & frameFlags.reply ? undefined : this.serving.get(requestId);
    const pieces = pending?.answer ?? serving?.pieces;
    // A piece that fits nowhere belongs to a call that was given up, or came twice.
    if (pieces === undefined || placeOfPiece(pieces, frame)?.byteOffset !== frame.data.byteOffset) {
      return;
    }
    pieces.came[offset / pieceBytesMax] = 1;
    if (--pieces.left > 0) return;
    if (pending !== undefined) {
      pending.resolve({ meta: pending.answer!.meta, data: pieces.data });
    } else if (serving !== undefined) {
      void this.serve(requestId, serving, pieces.data);
    }
  }

  /** Runs the handler and sends its answer; never rejects. */
  private async serve(id: number, serving: Serving, data: Uint8Array): Promise<void> {
    const { header } = serving;
    serving.controller = new AbortController();
    const { signal } = serving.controller;
    const call: IncomingCall = {
      service: header.service,
      method: header.method,
      traceId: header.traceId,
      ...(header.argument > 0 && { deadlineMs: header.argument }),
      meta: serving.meta,
      data,
      signal,
      peer: this.peer,
    };
    try {
      const answer = await this.handler!(call);
      if (this.serving.get(id) === serving) await this.sendAnswer(id, serving, answer);
    } catch (error) {
      if (this.serving.get(id) === serving) this.sendError(id, error);
    }
    // The slot is free only when the answer is out, so that slow readers can't pile answers up.
    if (!this.link.writable) await this.link.drained();
    if (this.serving.get(id) === serving) this.serving.delete(id);
    this.release(serving);
  }

  private async sendAnswer(id: number, serving: Serving, answer: Message): Promise<void> {
    const { meta, data } = answer;
    if (data.length > this.dataBytesMax) {
      const sizes = `${data.length} bytes of ${this.dataBytesMax}`;
      throw rpcError("rpc-too-large", `data of an answer has ${sizes}: ask for less at once.`);
    }
    const flags = answer.ownChecksum ? frameFlags.ownChecksum : 0;
    const fields = { kind: frameKinds.response, requestId: id, meta, flags };
    if (data.length <= pieceBytesMax) {
      this.link.send(makeFrame({ ...fields, data }));
      return;
    }
    this.link.send(makeFrame(fields, data.length));
    const isWanted = () => this.serving.get(id) === serving;
    await this.sendPieces(id, answer, frameFlags.reply, isWanted);
  }

  /** Sends data piece by piece, as fast as the link takes it, as long as it is wanted. */
  private async sendPieces(
    requestId: number,
    { data, ownChecksum }: Message,
    flags: number,
    isWanted: () => boolean,
  ): Promise<void> {
    const allFlags = flags | (ownChecksum ? frameFlags.ownChecksum : 0);
    for (let offset = 0; offset < data.length; offset += pieceBytesMax) {
      if (!this.link.writable) await this.link.drained();
      if (!isWanted() || this.end !== undefined) return;
      const piece = data.subarray(offset, offset + pieceBytesMax);
      const fields = { kind: frameKinds.data, requestId, flags: allFlags, argument: offset };
      this.link.send(makeFrame({ ...fields, data: piece }));
    }
  }

  private sendError(requestId: number, error: unknown): void {
    const known =
      error instanceof BaleenError
        ? error
        : rpcError("rpc-internal", `the service failed (${String(error)}): see its log.`);
    const { code, retry, message } = known;
    const meta = Buffer.from(JSON.stringify({ code, retry, message: message.slice(0, 4096) }));
    const fields = { kind: frameKinds.response, requestId, flags: frameFlags.failed, meta };
    this.link.send(makeFrame(fields));
  }

  /** Forgets a request that nobody waits for any more. Its handler is told, and may run on. */
  private drop(id: number, reason: Error): void {
    const serving = this.serving.get(id);
    if (serving === undefined) return;
    this.serving.delete(id);
    serving.controller?.abort(reason);
    // Budget stays taken as long as a handler holds the memory: `serve` gives it back.
    if (serving.controller === undefined) this.release(serving);
  }

  private release(serving: Serving): void {
    const steps = serving.release;
    serving.release = [];
    for (const step of steps) step();
  }

  private finish(cause: Error | undefined): void {
    if (this.end !== undefined) return;
    const why = cause === undefined ? "" : ` (${cause.message.replace(/\.$/, "")})`;
    const words = `the connection to ${this.peer} ended${why}: connect again.`;
    const code = cause instanceof BaleenError && cause.code.startsWith("rpc-") ? cause.code : "";
    this.end =
      code === "rpc-unauthenticated" ? (cause as Error) : rpcError("rpc-closed", words, cause);
    for (const pending of [...this.pending.values()]) pending.reject(this.end);
    for (const id of [...this.serving.keys()]) this.drop(id, this.end);
    this.resolveClosed();
  }
}

function cancelled(): Error {
  return rpcError("rpc-cancelled", "the call was cancelled by its caller: call again if needed.");
}

function expired(peer: string, deadlineMs: number): Error {
  const words = `no answer from ${peer} within ${Math.ceil(deadlineMs)} ms: try again.`;
  return rpcError("rpc-deadline-exceeded", words);
}

const advices: readonly string[] = ["never", "same", "after-refresh"];

function errorFrom(meta: Uint8Array): Error {
  try {
    const { code, retry, message } = JSON.parse(Buffer.from(meta).toString());
    if (typeof code === "string" && typeof message === "string" && advices.includes(retry)) {
      return new BaleenError(code, message, { retry: retry as RetryAdvice });
    }
  } catch (cause) {
    return rpcError(
      "rpc-frame-invalid",
      "an error came in no known form: update both ends.",
      cause,
    );
  }
  return rpcError("rpc-frame-invalid", "an error came in no known form: update both ends.");
}

/** A message of no bytes, with `meta` where given. */
export function message(meta: Uint8Array = empty, data: Uint8Array = empty): Message {
  return { meta, data };
}
