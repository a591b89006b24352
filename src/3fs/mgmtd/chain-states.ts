/**
 * @file The target state machine, as pure functions of a whole chain: which public states follow from
 * the present ones and from what the targets' nodes say. A target that serves has everything that was
 * ever acknowledged; nothing here lets one serve that may lack some of it, but for the two moves of an
 * administrator who accepts that loss.
 */
import { type ChainTarget, type LocalState, publicStates, type TargetId } from "../types.ts";

/** A target of a chain with what its node says of it. */
export interface ChainMember extends ChainTarget {
  readonly local: LocalState;
}

/**
 * The targets of a chain after what their nodes say, in their new order.
 *
 * - Serving targets that are alive go on. Where all die together, the first becomes `lastsrv`, since
 *   it heads the chain and lacks nothing, and the others are offline; else the dead are offline.
 * - `lastsrv` serves again once it is back; where another serves by then it is offline instead.
 * - A syncing target that is up to date serves. At most one target is syncing, and only under one
 *   that serves: the others wait. An offline one that comes back may start to sync at once.
 * - An up-to-date target that waits or was offline must first say that it is merely online, since
 *   what it is up to date with is an earlier chain.
 */
export function nextChain(members: readonly ChainMember[]): ChainTarget[] {
  const lives = ({ local }: ChainMember) => local !== "offline";
  const stays = members.filter((member) => member.state === "serving" && lives(member));
  const filled = members.filter(({ state, local }) => state === "syncing" && local === "uptodate");
  const returning = members.find(({ state }) => state === "lastsrv");
  const serving = new Set<ChainMember>([...stays, ...filled]);
  if (serving.size === 0 && returning && lives(returning)) serving.add(returning);
  const last =
    serving.size > 0 ? undefined : (returning ?? members.find(({ state }) => state === "serving"));
  const syncing = serving.size > 0 ? nextToSync(members) : undefined;
  const next = members.map((member): ChainTarget => {
    const { targetId } = member;
    if (serving.has(member)) return { targetId, state: "serving" };
    if (member === last) return { targetId, state: "lastsrv" };
    // What served, or served last, comes back through `offline`: it may miss writes by then.
    const left = member.state === "serving" || member.state === "lastsrv";
    if (left || !lives(member)) return { targetId, state: "offline" };
    return { targetId, state: member === syncing ? "syncing" : "waiting" };
  });
  return inOrder(next);
}

/** The one member that syncs under a serving one: who does already, else the first that can begin. */
function nextToSync(members: readonly ChainMember[]): ChainMember | undefined {
  const ready = members.filter(({ local }) => local === "online");
  return (
    ready.find(({ state }) => state === "syncing") ??
    ready.find(({ state }) => state === "waiting" || state === "offline")
  );
}

/** The targets ordered by state, and within a state as before. */
export function inOrder(targets: readonly ChainTarget[]): ChainTarget[] {
  const rank = ({ state }: ChainTarget) => publicStates.indexOf(state);
  return targets.toSorted((x, y) => rank(x) - rank(y));
}

/** Whether two lists of targets are the same, order included. */
export function sameTargets(x: readonly ChainTarget[], y: readonly ChainTarget[]): boolean {
  return (
    x.length === y.length &&
    x.every(({ targetId, state }, i) => targetId === y[i].targetId && state === y[i].state)
  );
}

/** A chain at rest: the first that serves, or served last, is `lastsrv`, and the others are offline. */
export function shutDownChain(targets: readonly ChainTarget[]): ChainTarget[] {
  const last = targets.find(({ state }) => state === "serving" || state === "lastsrv");
  return inOrder(
    targets.map((target) => ({
      targetId: target.targetId,
      state: target === last ? "lastsrv" : "offline",
    })),
  );
}

/**
 * Gives up on the `lastsrv` target: the next one in the chain takes its place, and what only the old
 * one held is lost. Undefined where the chain has no `lastsrv`, or nobody else.
 */
export function rotateLastsrv(targets: readonly ChainTarget[]): ChainTarget[] | undefined {
  const [first, second, ...others] = targets;
  if (first?.state !== "lastsrv" || !second) return undefined;
  return inOrder([
    { targetId: second.targetId, state: "lastsrv" },
    ...others,
    { targetId: first.targetId, state: "offline" },
  ]);
}

/**
 * One step towards the preferred order: the first target out of place leaves, to be filled again and
 * join at the end. It only leaves a chain whose targets all serve. Undefined where nothing is to do
 * or it can't be done now.
 */
export function rotateToPreferred(
  targets: readonly ChainTarget[],
  preferredOrder: readonly TargetId[],
): ChainTarget[] | undefined {
  if (targets.length < 2 || targets.some(({ state }) => state !== "serving")) return undefined;
  const members = new Set(targets.map(({ targetId }) => targetId));
  const wanted = preferredOrder.filter((targetId) => members.has(targetId));
  // Moving targets to the end one by one sorts fastest if those already in order stay.
  let place = 0;
  const leaver = targets.find(({ targetId }) => {
    if (targetId === wanted[place]) place++;
    else if (wanted.includes(targetId)) return true;
    return false;
  });
  if (!leaver || (leaver === targets.at(-1) && place === wanted.length - 1)) return undefined;
  return inOrder(
    targets.map((target) =>
      target === leaver ? { targetId: target.targetId, state: "offline" } : target,
    ),
  );
}
