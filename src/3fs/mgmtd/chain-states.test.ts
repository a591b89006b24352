import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type ChainTarget,
  type LocalState,
  localStates,
  type PublicState,
  publicStates,
} from "../types.ts";
import {
  type ChainMember,
  inOrder,
  nextChain,
  rotateLastsrv,
  rotateToPreferred,
  sameTargets,
  shutDownChain,
} from "./chain-states.ts";

const every = publicStates.flatMap((state) => localStates.map((local) => ({ state, local })));

/** Every chain of `length` targets, in every order of states, legal or not. */
function* chains(length: number): Generator<ChainMember[]> {
  for (let code = 0; code < every.length ** length; code++) {
    yield Array.from({ length }, (_, i) => ({
      targetId: i + 1,
      ...every[Math.floor(code / every.length ** i) % every.length],
    }));
  }
}

const count = (targets: readonly ChainTarget[], ...states: PublicState[]): number =>
  targets.filter(({ state }) => states.includes(state)).length;

/** Whether the rules could have led to this chain. */
function isLegal(chain: readonly ChainTarget[]): boolean {
  const [serving, last] = [count(chain, "serving"), count(chain, "lastsrv")];
  const underServing = count(chain, "syncing") === 0 || serving > 0;
  const one = serving > 0 !== last > 0 && last <= 1 && count(chain, "syncing") <= 1;
  return one && underServing && sameTargets(chain, inOrder(chain));
}

test("the states of one target under one that serves, and of one alone, follow the table", () => {
  const table: Record<PublicState, Record<LocalState, PublicState>> = {
    serving: { uptodate: "serving", online: "serving", offline: "offline" },
    syncing: { uptodate: "serving", online: "syncing", offline: "offline" },
    waiting: { uptodate: "waiting", online: "syncing", offline: "offline" },
    lastsrv: { uptodate: "offline", online: "offline", offline: "offline" },
    offline: { uptodate: "waiting", online: "syncing", offline: "offline" },
  };
  for (const { state, local } of every) {
    const head: ChainMember = { targetId: 1, state: "serving", local: "uptodate" };
    const next = nextChain([head, { targetId: 2, state, local }]);
    const got = next.find(({ targetId }) => targetId === 2)?.state;
    assert.equal(got, table[state][local], `${state} x ${local} under a serving one`);
    const [alone] = nextChain([{ targetId: 2, state, local }]);
    const wanted =
      state === "serving" || state === "lastsrv"
        ? local === "offline"
          ? "lastsrv"
          : "serving"
        : state === "syncing" && local === "uptodate"
          ? "serving"
          : local === "offline"
            ? "offline"
            : "waiting";
    assert.equal(alone.state, wanted, `${state} x ${local} alone`);
  }
});

test("over all chains of 1 to 4 targets: safety, order, and rest after one step", () => {
  for (let length = 1; length <= 4; length++) {
    for (const chain of chains(length)) {
      const next = nextChain(chain);
      const words = () => `${JSON.stringify(chain)} -> ${JSON.stringify(next)}`;
      const stateOf = new Map(next.map(({ targetId, state }) => [targetId, state]));
      assert.equal(stateOf.size, length, words());
      assert.ok(sameTargets(next, inOrder(next)), words());
      assert.ok(count(next, "syncing") <= 1 && count(next, "lastsrv") <= 1, words());
      assert.ok(count(next, "syncing") === 0 || count(next, "serving") > 0, words());
      if (count(chain, "serving", "lastsrv") > 0) {
        assert.ok(count(next, "serving") > 0 !== count(next, "lastsrv") > 0, words());
      }
      for (const { targetId, state, local } of chain) {
        const after = stateOf.get(targetId);
        if (local === "offline") assert.ok(after === "offline" || after === "lastsrv", words());
        if (state === "serving" && local !== "offline") assert.equal(after, "serving", words());
        if (after === "serving") assert.ok(!["waiting", "offline"].includes(state), words());
        if (after === "serving" && state === "syncing") assert.equal(local, "uptodate", words());
        if (after === "serving" && state === "lastsrv") {
          assert.equal(
            count(
              chain.filter((m) => m.local !== "offline"),
              "serving",
            ),
            0,
            words(),
          );
        }
        if (after === "lastsrv") assert.ok(state === "serving" || state === "lastsrv", words());
        if (after === "syncing") assert.equal(local, "online", words());
      }
      if (isLegal(chain)) assert.ok(isLegal(next), words());
      // The same reports again change nothing more, but for one that may now begin to sync.
      const again = nextChain(withLocals(next, chain));
      const calm = nextChain(withLocals(again, chain));
      assert.ok(sameTargets(again, calm), `${words()} does not come to rest`);
    }
  }
});

function withLocals(targets: readonly ChainTarget[], from: readonly ChainMember[]): ChainMember[] {
  const locals = new Map(from.map(({ targetId, local }) => [targetId, local]));
  return targets.map((target) => ({ ...target, local: locals.get(target.targetId)! }));
}

test("when all that serve die together only the first is lastsrv, and the chain waits for it", () => {
  const dead = [1, 2, 3].map(
    (targetId): ChainMember => ({ targetId, state: "serving", local: "offline" }),
  );
  const after = nextChain(dead);
  assert.deepEqual(
    after.map(({ state }) => state),
    ["lastsrv", "offline", "offline"],
  );
  const others = after.map(
    (target, i): ChainMember => ({
      ...target,
      local: i === 0 ? "offline" : "online",
    }),
  );
  assert.deepEqual(
    nextChain(others).map(({ state }) => state),
    ["lastsrv", "waiting", "waiting"],
  );
});

test("from every legal chain, targets that all come back end up serving", () => {
  for (let length = 1; length <= 4; length++) {
    for (const start of chains(length)) {
      if (start.some(({ local }) => local !== "online") || !isLegal(start)) continue;
      let chain: ChainTarget[] = start;
      for (let step = 0; step < 3 * length; step++) {
        // What syncs is filled by the next step.
        const local = ({ state }: ChainTarget): LocalState =>
          state === "syncing" || state === "serving" ? "uptodate" : "online";
        chain = nextChain(chain.map((target) => ({ ...target, local: local(target) })));
      }
      assert.equal(count(chain, "serving"), length, JSON.stringify(start));
    }
  }
});

test("an administrator's moves keep one lastsrv, and the preferred order is reached step by step", () => {
  const serving = (...ids: number[]) =>
    ids.map((targetId): ChainTarget => ({ targetId, state: "serving" }));
  assert.deepEqual(shutDownChain(serving(4, 5)), [
    { targetId: 4, state: "lastsrv" },
    { targetId: 5, state: "offline" },
  ]);
  assert.deepEqual(rotateLastsrv(shutDownChain(serving(4, 5))), [
    { targetId: 5, state: "lastsrv" },
    { targetId: 4, state: "offline" },
  ]);
  assert.equal(rotateLastsrv(serving(4, 5)), undefined);
  assert.equal(rotateLastsrv([{ targetId: 1, state: "lastsrv" }]), undefined);
  const orders = [[], [3], [2, 1], [1, 2, 3, 4], [4, 3, 2, 1], [2, 4, 1, 3], [9, 1]];
  for (const preferred of orders) {
    let chain = serving(3, 1, 4, 2);
    let steps = 0;
    for (let move = rotateToPreferred(chain, preferred); move; ) {
      assert.equal(count(move, "serving"), 3);
      assert.equal(rotateToPreferred(move, preferred), undefined, "not while one is away");
      chain = move.map(({ targetId }) => ({ targetId, state: "serving" }));
      move = rotateToPreferred(chain, preferred);
      assert.ok(++steps <= 8, `${preferred}: ${chain.map(({ targetId }) => targetId)}`);
    }
    const present = preferred.filter((id) => id < 5);
    const got = chain.map(({ targetId }) => targetId).filter((id) => present.includes(id));
    assert.deepEqual(got, present);
  }
});
