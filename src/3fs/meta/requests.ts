/**
 * @file Requests that take effect once. A request's result is kept under its name by the same commit;
 * a client says up to where it has its answers, and what lies below is forgotten and refused from then
 * on. Requests without a name get one of this service, so that a lost answer of a commit is settled.
 */

import type { Clock, Random } from "../../base/index.ts";
import { type KvStore, type Transaction, transact } from "../../kv/index.ts";
import { fsError } from "../errors.ts";
import { decodeJson, encodeJson } from "../json-records.ts";
import { records } from "./records.ts";
import type { RequestId } from "./types.ts";

/** After how many requests of a client its old results are forgotten. */
const forgetEvery = 64;

/** Names requests of its own, and runs requests so that they take effect once. */
export class Requests {
  private readonly store: KvStore;
  private readonly clock: Clock;
  private readonly random: Random;
  private readonly clientId: string;
  private readonly open = new Set<number>();
  private nextId = 1;

  /** `clientId` must be new each time a service starts. */
  constructor(store: KvStore, clock: Clock, random: Random, clientId: string) {
    this.store = store;
    this.clock = clock;
    this.random = random;
    this.clientId = clientId;
  }

  /** The result of `run`, of this try or of an earlier one of the same request. */
  async once<T>(
    request: RequestId | undefined,
    run: (transaction: Transaction) => Promise<T>,
  ): Promise<T> {
    if (request) {
      checkRequest(request);
      return this.perform(request, run);
    }
    const requestId = this.nextId++;
    this.open.add(requestId);
    try {
      const [oldest] = this.open;
      return await this.perform({ clientId: this.clientId, requestId, ackedBelow: oldest }, run);
    } finally {
      this.open.delete(requestId);
    }
  }

  /** The kept result of a request, as a list of one; empty where there is none. */
  async kept<T>(request: RequestId | undefined): Promise<readonly T[]> {
    if (!request) return [];
    checkRequest(request);
    const { clientId, requestId } = request;
    return transact(
      this.store,
      async (transaction) => {
        await requireFresh(transaction, request);
        const value = await transaction.get(records.once.key(clientId, requestId));
        return value ? [decodeJson<{ result: T }>(value).result] : [];
      },
      { clock: this.clock },
    );
  }

  private perform<T>(
    request: RequestId,
    run: (transaction: Transaction) => Promise<T>,
  ): Promise<T> {
    const { clientId, requestId, ackedBelow } = request;
    const attempt = async (transaction: Transaction): Promise<T> => {
      await requireFresh(transaction, request);
      const result = await run(transaction);
      if (requestId % forgetEvery === 0 && ackedBelow <= requestId) {
        const { once } = records;
        transaction.clearRange(once.key(clientId, 0), once.key(clientId, ackedBelow));
        records.acked.set(transaction, ackedBelow, clientId);
      }
      return result;
    };
    return transact(this.store, attempt, {
      clock: this.clock,
      random: this.random,
      once: {
        key: records.once.key(clientId, requestId),
        encode: (result) => encodeJson({ result }),
        decode: (value) => decodeJson<{ result: T }>(value).result,
      },
    });
  }
}

/** Forgets a client's results for good. */
export function forgetClient(transaction: Transaction, clientId: string): void {
  const { once } = records;
  transaction.clearRange(once.key(clientId, 0), once.key(clientId, Number.MAX_SAFE_INTEGER));
  records.acked.set(transaction, Number.MAX_SAFE_INTEGER, clientId);
}

async function requireFresh(transaction: Transaction, request: RequestId): Promise<void> {
  const { clientId, requestId } = request;
  const acked = (await records.acked.peek(transaction, clientId)) ?? 0;
  if (requestId >= acked) return;
  const message = `Request ${requestId} of client ${clientId} was answered long ago`;
  throw fsError("fs-request-stale", `${message}: send a new one.`);
}

function checkRequest({ clientId, requestId, ackedBelow }: RequestId): void {
  const isId = typeof clientId === "string" && clientId !== "" && clientId.length <= 100;
  const isWhole = (value: unknown) => Number.isSafeInteger(value) && (value as number) > 0;
  if (isId && !clientId.includes("\0") && isWhole(requestId) && isWhole(ackedBelow)) return;
  const advice = "give a client id of 1 to 100 characters and whole numbers of at least 1";
  throw fsError("fs-input-invalid", `The request's name is malformed: ${advice}.`);
}
