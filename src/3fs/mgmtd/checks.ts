/** @file The checks of what `mgmtd` is given. Each refusal is a sentence that names the field. */
import { fsError } from "../errors.ts";
import { type ChainId, localStates } from "../types.ts";
import type { ManagementState } from "./state.ts";
import type { ChainPlan, Heartbeat } from "./types.ts";

const nodeKinds = ["mgmtd", "meta", "storage", "client"];

/** The refusal of a field: `field problem: advice.` */
export function refuse(field: string, problem: string, advice: string): Error {
  return fsError("fs-input-invalid", `${field} ${problem}: ${advice}.`);
}

/** Throws unless `id` can be an id. */
function checkId(field: string, id: unknown): void {
  if (Number.isSafeInteger(id) && (id as number) > 0) return;
  throw refuse(field, `is ${JSON.stringify(id)}`, "give a whole number of at least 1");
}

/** Throws unless the heartbeat is one. */
export function checkHeartbeat(request: Heartbeat): void {
  const { nodeId, kind, addresses, generation, sequence, targets } = request;
  checkId("nodeId", nodeId);
  checkId("generation", generation);
  checkId("sequence", sequence);
  if (!nodeKinds.includes(kind)) {
    throw refuse("kind", `is ${JSON.stringify(kind)}`, `give one of ${nodeKinds.join(", ")}`);
  }
  const isText = (value: unknown) => typeof value === "string" && value.length < 300;
  if (!Array.isArray(addresses) || !addresses.every(isText)) {
    throw refuse("addresses", "is no list of addresses", "give texts");
  }
  if (!Array.isArray(targets)) throw refuse("targets", "is no list", "give the node's targets");
  for (const { targetId, localState } of targets) {
    checkId("targetId", targetId);
    if (localStates.includes(localState)) continue;
    const advice = `give one of ${localStates.join(", ")}`;
    throw refuse(`localState of target ${targetId}`, `is ${JSON.stringify(localState)}`, advice);
  }
}

/** Throws unless the chains can be made. */
export function checkPlans(plans: readonly ChainPlan[], state: ManagementState): void {
  const [chainIds, targetIds] = [new Set(state.chains.keys()), new Set(state.chainOf.keys())];
  for (const { chainId, targets } of plans) {
    checkId("chainId", chainId);
    if (chainIds.has(chainId)) throw refuse(`chain ${chainId}`, "exists", "choose another id");
    chainIds.add(chainId);
    if (targets.length === 0)
      throw refuse(`chain ${chainId}`, "has no targets", "give one or more");
    const nodes = new Set(targets.map(({ nodeId }) => nodeId));
    if (nodes.size < targets.length) {
      const advice = "spread them over nodes";
      throw refuse(`chain ${chainId}`, "has two targets on one node", advice);
    }
    for (const { targetId, nodeId } of targets) checkNewTarget(targetId, nodeId, targetIds, state);
  }
}

/** Throws unless a target may join a chain; counts it in `taken`. */
export function checkNewTarget(
  targetId: number,
  nodeId: number,
  taken: Set<number>,
  state: ManagementState,
): void {
  checkId("targetId", targetId);
  if (taken.has(targetId)) {
    throw refuse(`target ${targetId}`, "is in a chain already", "choose another");
  }
  taken.add(targetId);
  if (!state.nodes.has(nodeId)) {
    throw refuse(`node ${nodeId} of target ${targetId}`, "was never heard", "start it first");
  }
}

/** Throws unless the chains make a table. */
export function checkChainTable(
  tableId: number,
  chainIds: readonly ChainId[],
  state: ManagementState,
): void {
  checkId("tableId", tableId);
  if (chainIds.length === 0) throw refuse("chainIds", "is empty", "give at least one chain");
  if (new Set(chainIds).size < chainIds.length) {
    throw refuse("chainIds", "names a chain twice", "name each once");
  }
  const unknown = chainIds.find((chainId) => !state.chains.has(chainId));
  if (unknown !== undefined) throw refuse(`chain ${unknown}`, "does not exist", "create it first");
}
