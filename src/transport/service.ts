/**
 * @file Services: classes with asynchronous methods, called from afar as they are called near. Arguments
 * and results are JSON values in which any part may be a `Uint8Array`; those travel as data.
 */
import { assert } from "../base/index.ts";
import type { CallOptions, Handler, IncomingCall, Message } from "./connection.ts";
import { rpcError } from "./errors.ts";
import { metaBytesMax } from "./frame.ts";

/** The names of `T`'s methods. */
type MethodName<T> = {
  [K in keyof T]: T[K] extends (...args: never[]) => Promise<unknown> ? K : never;
}[keyof T] &
  string;

/** A service's number on the wire, and its methods: their places in the list are their numbers. */
export interface Service<T> {
  readonly id: number;
  readonly name: string;
  readonly methods: readonly MethodName<T>[];
}

/** The asynchronous methods of `T`, as a remote caller has them. */
export type Remote<T> = Pick<T, MethodName<T>>;

/**
 * What a service is told besides its arguments, after the last of them; what a caller gives there is
 * not sent, but rules the call.
 */
export class CallContext {
  readonly options: CallOptions;
  /** The other end, where the call came from afar. */
  readonly peer: string | undefined;

  constructor(options: CallOptions, peer?: string) {
    this.options = options;
    this.peer = peer;
  }
}

/** Who makes calls: a connection, or something that finds one. */
export interface Caller {
  call(service: number, method: number, request: Message, options?: CallOptions): Promise<Message>;
}

/** Declares a service. New methods go to the end of the list, so that old callers stay right. */
export function defineService<T>(
  id: number,
  name: string,
  methods: readonly MethodName<T>[],
): Service<T> {
  assert(id > 0 && id < 65536, () => `id of service ${name}: got ${id}, wanted 1 to 65535`);
  return { id, name, methods };
}

/** A service that is served, with its implementation. */
export interface Served {
  readonly service: Service<never>;
  readonly implementation: object;
}

/** Pairs a service with what implements it, for `handlerOf`. */
export function served<T extends object>(service: Service<T>, implementation: Remote<T>): Served {
  return { service: service as unknown as Service<never>, implementation };
}

/**
 * Answers calls to these services. A result with `ownChecksum: true` carries a checksum of its bytes, so
 * that frames need none. Arguments that can't be decoded are refused with
 * `rpc-argument-invalid`; whether they make sense is for the method to check.
 */
export function handlerOf(...all: readonly Served[]): Handler {
  const byId = new Map(all.map((one) => [one.service.id, one]));
  return async (call) => {
    const found = byId.get(call.service);
    const name: string | undefined = found?.service.methods[call.method];
    if (found === undefined || name === undefined) {
      const words = `method ${call.service}.${call.method} is not served by this process`;
      throw rpcError("rpc-method-unknown", `${words}: check the address, or update both ends.`);
    }
    const args = unpack(call, `${found.service.name}.${name}`);
    if (!Array.isArray(args)) throw argumentInvalid(`${found.service.name}.${name}`);
    const method = (found.implementation as Record<string, (...args: unknown[]) => unknown>)[name];
    const result = await method.call(found.implementation, ...args, contextOf(call));
    return pack(result, (result as { ownChecksum?: unknown } | undefined)?.ownChecksum === true);
  };
}

/** The service's methods at the other end of `caller`; `options` hold for every call. */
export function remote<T>(
  service: Service<T>,
  caller: Caller,
  options: CallOptions = {},
): Remote<T> {
  const methods = service.methods.map((name, number) => [
    name,
    async (...args: unknown[]): Promise<unknown> => {
      const last = args.at(-1);
      const own = last instanceof CallContext ? last.options : {};
      const sent = last instanceof CallContext ? args.slice(0, -1) : args;
      const all = { ...options, ...own };
      const answer = await caller.call(service.id, number, pack(sent, all.ownChecksum), all);
      return unpack(answer, `${service.name}.${name}`);
    },
  ]);
  return Object.fromEntries(methods) as Remote<T>;
}

function contextOf(call: IncomingCall): CallContext {
  const { signal, traceId, deadlineMs } = call;
  return new CallContext(
    { signal, traceId, ...(deadlineMs !== undefined && { deadlineMs }) },
    call.peer,
  );
}

const bytesKey = "$bytes";
const none = new Uint8Array(0);

/** A value as meta, and the bytes in it as data. */
function pack(value: unknown, ownChecksum = false): Message {
  const parts: Uint8Array[] = [];
  let offset = 0;
  const strip = (node: unknown): unknown => {
    if (node === null || typeof node !== "object") return node;
    if (node instanceof Uint8Array) {
      parts.push(node);
      offset += node.length;
      return { [bytesKey]: [offset - node.length, node.length] };
    }
    if (Array.isArray(node)) return node.map(strip);
    return Object.fromEntries(Object.entries(node).map(([key, item]) => [key, strip(item)]));
  };
  const json = JSON.stringify(holdsBytes(value) ? strip(value) : value);
  const meta = json === undefined ? none : Buffer.from(json);
  if (meta.length > metaBytesMax) {
    const words = `a message has ${meta.length} bytes of ${metaBytesMax} besides its data`;
    throw rpcError("rpc-too-large", `${words}: ask for less at once.`);
  }
  return { meta, data: parts.length === 1 ? parts[0] : joined(parts, offset), ownChecksum };
}

function joined(parts: readonly Uint8Array[], bytes: number): Uint8Array {
  const all = new Uint8Array(bytes);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function holdsBytes(value: unknown): boolean {
  if (value === null || typeof value !== "object") return false;
  if (value instanceof Uint8Array) return true;
  if (Array.isArray(value)) return value.some(holdsBytes);
  for (const key in value) if (holdsBytes((value as Record<string, unknown>)[key])) return true;
  return false;
}

function unpack({ meta, data }: Message, what: string): unknown {
  if (meta.length === 0) return undefined;
  try {
    const text = Buffer.from(meta.buffer, meta.byteOffset, meta.length).toString();
    const value: unknown = JSON.parse(text);
    return text.includes(`"${bytesKey}"`) ? restore(value, data) : value;
  } catch (cause) {
    throw argumentInvalid(what, cause);
  }
}

/** Puts the bytes back in place; a reference beyond the data is an error. */
function restore(node: unknown, data: Uint8Array): unknown {
  if (node === null || typeof node !== "object") return node;
  if (Array.isArray(node)) return node.map((item) => restore(item, data));
  const reference = (node as Record<string, unknown>)[bytesKey];
  if (reference === undefined) {
    const entries = Object.entries(node).map(([key, item]) => [key, restore(item, data)]);
    return Object.fromEntries(entries);
  }
  const [offset, length] = reference as [number, number];
  const isWithin =
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(length) &&
    offset >= 0 &&
    length >= 0 &&
    offset + length <= data.length;
  if (!isWithin) throw new Error("a reference to bytes beyond the data");
  return data.subarray(offset, offset + length);
}

function argumentInvalid(what: string, cause?: unknown): Error {
  const words = `the message of ${what} can't be decoded: check that both ends are of one release.`;
  return rpcError("rpc-argument-invalid", words, cause);
}
