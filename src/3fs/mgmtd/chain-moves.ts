/** @file The moves of an administrator on a chain, checked. */
import type { ChainInfo, ChainTarget } from "../types.ts";
import { inOrder, rotateLastsrv, rotateToPreferred, shutDownChain } from "./chain-states.ts";
import { checkNewTarget, refuse } from "./checks.ts";
import type { ManagementState } from "./state.ts";
import type { ChainMove } from "./types.ts";

/** The chain after `move`, one version on; throws where the move can't be made. */
export function applyMove(chain: ChainInfo, move: ChainMove, state: ManagementState): ChainInfo {
  const version = chain.version + 1;
  if (move.kind === "set-preferred") {
    const members = new Set(chain.targets.map(({ targetId }) => targetId));
    const stranger = move.order.find((targetId) => !members.has(targetId));
    if (stranger !== undefined) {
      throw refuse(`target ${stranger}`, `is not in chain ${chain.chainId}`, "leave it out");
    }
    return { ...chain, version, preferredOrder: [...move.order] };
  }
  if (move.kind === "start-up") return { ...chain, version, isShut: false };
  const targets = targetsAfter(chain, move, state);
  return { ...chain, version, targets, ...(move.kind === "shut-down" ? { isShut: true } : {}) };
}

function targetsAfter(
  chain: ChainInfo,
  move: Exclude<ChainMove, { kind: "set-preferred" | "start-up" }>,
  state: ManagementState,
): ChainTarget[] {
  const { targets, chainId } = chain;
  switch (move.kind) {
    case "shut-down":
      return shutDownChain(targets);
    case "rotate-lastsrv": {
      const advice = "nothing needs to be given up";
      const problem = "has no lastsrv target, or no other target";
      return rotateLastsrv(targets) ?? impossible(chainId, problem, advice);
    }
    case "rotate-preferred": {
      const problem = "is in its preferred order, or not all of its targets serve";
      const next = rotateToPreferred(targets, chain.preferredOrder);
      return next ?? impossible(chainId, problem, "look at its states and try later");
    }
    case "add-target": {
      const nodes = targets.map(({ targetId }) => state.homes.get(targetId)?.nodeId);
      if (nodes.includes(move.nodeId)) {
        return impossible(chainId, `has a target on node ${move.nodeId}`, "choose another node");
      }
      checkNewTarget(move.targetId, move.nodeId, new Set(state.chainOf.keys()), state);
      return inOrder([...targets, { targetId: move.targetId, state: "offline" }]);
    }
    case "remove-target": {
      const rest = targets.filter(({ targetId }) => targetId !== move.targetId);
      if (rest.length === targets.length) {
        return impossible(chainId, `has no target ${move.targetId}`, "check the id");
      }
      if (!rest.some((target) => target.state === "serving" || target.state === "lastsrv")) {
        const problem = `would have nobody with its data without target ${move.targetId}`;
        return impossible(chainId, problem, "add another and wait until it serves");
      }
      return rest;
    }
  }
}

function impossible(chainId: number, problem: string, advice: string): never {
  throw refuse(`chain ${chainId}`, problem, advice);
}
