/** @file Servers and connections by address: `tcp:`, `unix:`, and whatever transports are handed in. */
import { timingSafeEqual } from "node:crypto";
import { Budget } from "./budget.ts";
import {
  type CallOptions,
  Connection,
  type ConnectionOptions,
  dataBytesMaxDefault,
  type Handler,
  type Message,
  message,
} from "./connection.ts";
import { rpcError } from "./errors.ts";
import type { Link, Transport } from "./link.ts";
import type { Caller } from "./service.ts";
import { SocketTransport } from "./socket.ts";

/** How to listen or to connect. */
export interface RpcOptions extends ConnectionOptions {
  /** Transports besides sockets. */
  readonly transports?: readonly Transport[];
  /** What both ends must know; absent for a service that anybody on the machine may call. */
  readonly secret?: string;
  /** Allows listening beyond loopback. */
  readonly exposed?: boolean;
  /** Bytes of announced requests under way, over all connections of a server (256 MiB). */
  readonly budgetBytes?: number;
}

/** A service that listens. */
export interface RpcServer {
  /** Where, with the port that was chosen. */
  readonly address: string;
  /** Connections that are open. */
  readonly connections: ReadonlySet<Connection>;
  /** Stops listening and ends all connections. */
  close(): Promise<void>;
}

/** The service that checks secrets; real ones start at 1. */
const gateService = 0;
const helloDeadlineMs = 5000;

function transportOf(address: string, options: RpcOptions): Transport {
  const scheme = /^[a-z]+:/.exec(address)?.[0];
  const own = options.transports?.find((transport) => transport.scheme === scheme);
  if (own !== undefined) return own;
  if (scheme !== "tcp:" && scheme !== "unix:") {
    const forms = "tcp://127.0.0.1:7001 or unix:///run/name.sock";
    throw rpcError("rpc-address-invalid", `${address} is no address: write ${forms}.`);
  }
  const dataBytesMax = options.dataBytesMax ?? dataBytesMaxDefault;
  return new SocketTransport(scheme, { dataBytesMax, exposed: options.exposed ?? false });
}

/** Serves `options.handler` at `address`. Throws `rpc-address-invalid`, `rpc-unreachable`. */
export async function listen(address: string, options: RpcOptions): Promise<RpcServer> {
  const connections = new Set<Connection>();
  const budget = options.budget ?? new Budget(options.budgetBytes ?? 256 * 2 ** 20);
  const accept = (link: Link) => {
    const connection = new Connection(link, { ...options, budget, ...gated(link, options) });
    connections.add(connection);
    void connection.closed.then(() => connections.delete(connection));
  };
  const listener = await transportOf(address, options).listen(address, accept);
  return {
    address: listener.address,
    connections,
    async close() {
      await listener.close();
      for (const connection of connections) connection.close();
    },
  };
}

/** Lets nothing but the secret through until it came. */
function gated(link: Link, { handler, secret }: RpcOptions): { handler?: Handler } {
  if (handler === undefined || secret === undefined) return handler ? { handler } : {};
  let isOpen = false;
  const wanted = Buffer.from(secret);
  return {
    async handler(call) {
      if (call.service === gateService) {
        const given = Buffer.from(call.meta);
        isOpen = given.length === wanted.length && timingSafeEqual(given, wanted);
        if (isOpen) return message();
      }
      if (isOpen) return handler(call);
      setImmediate(() => link.close());
      const words = `${link.peer} did not give this service's secret: set the same at both ends.`;
      throw rpcError("rpc-unauthenticated", words);
    },
  };
}

/**
 * Connects to `address`. Throws `rpc-address-invalid`, `rpc-unreachable`, `rpc-unauthenticated`.
 */
export async function connect(address: string, options: RpcOptions = {}): Promise<Connection> {
  const link = await transportOf(address, options).connect(address);
  const connection = new Connection(link, options);
  if (options.secret !== undefined) {
    const hello = message(Buffer.from(options.secret));
    try {
      await connection.call(gateService, 0, hello, { deadlineMs: helloDeadlineMs });
    } catch (error) {
      connection.close();
      throw error;
    }
  }
  return connection;
}

/** Connections to many addresses, opened when first needed and again when they have ended. */
export class ConnectionPool {
  private readonly options: RpcOptions;
  private readonly open = new Map<string, Promise<Connection>>();

  constructor(options: RpcOptions = {}) {
    this.options = options;
  }

  /** The connection to `address`. Throws what `connect` throws. */
  async get(address: string): Promise<Connection> {
    const known = this.open.get(address);
    if (known !== undefined) {
      const connection = await known;
      if (connection.isOpen) return connection;
      if (this.open.get(address) === known) this.open.delete(address);
      return this.get(address);
    }
    const fresh = connect(address, this.options);
    this.open.set(address, fresh);
    try {
      return await fresh;
    } catch (error) {
      if (this.open.get(address) === fresh) this.open.delete(address);
      throw error;
    }
  }

  /** Who calls whatever answers at `address` at that moment, for `remote`. */
  callerOf(address: string): Caller {
    return {
      call: async (service: number, method: number, request: Message, options?: CallOptions) =>
        (await this.get(address)).call(service, method, request, options),
    };
  }

  /** Ends all connections. */
  close(): void {
    for (const connection of this.open.values()) {
      connection.then(
        (one) => one.close(),
        () => {},
      );
    }
    this.open.clear();
  }
}
