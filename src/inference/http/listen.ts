/** @file Binds a server to an address, and says where it is or why it can't be. */
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { BaleenError } from "../../base/index.ts";

/** Where a server listens. */
export interface Bound {
  /** The port it listens on. */
  readonly port: number;
  /** Its address, such as `http://127.0.0.1:8000`. */
  readonly url: string;
}

/**
 * Resolves once `server` takes connections; port 0 takes a free one. Throws `BaleenError`
 * "address-taken" or "address-refused" where the socket can't be bound.
 */
export function listen(server: Server, host: string, port: number): Promise<Bound> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => reject(bindFailure(error, host, port)));
    server.listen(port, host, () => {
      server.removeAllListeners("error");
      const bound = (server.address() as AddressInfo).port;
      const shown = host === "0.0.0.0" || host === "::" ? "localhost" : host;
      const url = `http://${shown.includes(":") ? `[${shown}]` : shown}:${bound}`;
      resolve({ port: bound, url });
    });
  });
}

function bindFailure(cause: NodeJS.ErrnoException, host: string, port: number): BaleenError {
  if (cause.code === "EADDRINUSE") {
    const message = `Port ${port} on ${host} is taken: choose another with --port, or 0 for any.`;
    return new BaleenError("address-taken", message, { cause });
  }
  const message =
    `Can't listen on ${host}, port ${port} (${cause.code}): choose a local address with --host ` +
    "and a port above 1023 with --port.";
  return new BaleenError("address-refused", message, { cause });
}
