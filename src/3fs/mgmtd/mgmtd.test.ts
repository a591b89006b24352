import assert from "node:assert/strict";
import { test } from "node:test";
import { BaleenError, Random, VirtualClock } from "../../base/index.ts";
import { faultyKv, type KvStore, openMemoryKv } from "../../kv/index.ts";
import { type LocalState, publicStates } from "../types.ts";
import { Mgmtd } from "./mgmtd.ts";
import type { Heartbeat } from "./types.ts";

/** Lets promises run between moves of the clock. */
async function pass(clock: VirtualClock, ms: number, stepMs = 50): Promise<void> {
  for (let passed = 0; passed < ms; passed += stepMs) {
    clock.advance(stepMs);
    for (let i = 0; i < 60; i++) await Promise.resolve();
  }
}

/** What `promise` becomes, while the clock runs: retries pause on it. */
async function settle<T>(clock: VirtualClock, promise: Promise<T>): Promise<T> {
  let isSettled = false;
  const settled = () => {
    isSettled = true;
  };
  promise.then(settled, settled);
  while (!isSettled) await pass(clock, 5, 5);
  return promise;
}

const ids = (chain: { targets: readonly { targetId: number; state: string }[] }) =>
  chain.targets.map(({ targetId, state }) => `${targetId}:${state}`).join(" ");

const refuses = (promise: Promise<unknown>, code: string, words = /./): Promise<void> =>
  assert.rejects(
    promise,
    (error) => error instanceof BaleenError && error.code === code && words.test(error.message),
  );

/** A storage node without storage: reports one target a chain and syncs in no time. */
class Node {
  isUp = true;
  generation = 1;
  private sequence = 0;
  private readonly acts = new Map<number, { local: LocalState; chainVersion: number }>();
  readonly nodeId: number;

  constructor(nodeId: number) {
    this.nodeId = nodeId;
  }

  beat(targetIds: readonly number[]): Heartbeat {
    return {
      nodeId: this.nodeId,
      kind: "storage",
      addresses: [`tcp://127.0.0.1:${7000 + this.nodeId}`],
      generation: this.generation,
      sequence: ++this.sequence,
      targets: targetIds.map((targetId) => ({
        targetId,
        diskIndex: 0,
        localState: this.acts.get(targetId)?.local ?? "online",
        chainVersion: this.acts.get(targetId)?.chainVersion ?? 1,
        usedBytes: 0,
        freeBytes: 100,
      })),
    };
  }

  /** Follows the routing as a storage service does. */
  async follow(leader: Mgmtd): Promise<void> {
    const routing = await leader.routing(-1);
    for (const chain of routing!.chains) {
      for (const { targetId, state } of chain.targets) {
        const isFull = state === "serving" || state === "syncing";
        const local = isFull ? "uptodate" : "online";
        this.acts.set(targetId, { local, chainVersion: chain.version });
      }
    }
  }

  restart(): void {
    this.acts.clear();
    this.generation++;
    this.isUp = true;
  }
}

interface Cluster {
  readonly clock: VirtualClock;
  readonly store: KvStore;
  readonly leaders: Mgmtd[];
  readonly nodes: Node[];
  leader(): Mgmtd | undefined;
  beatAll(): Promise<void>;
}

async function cluster(instances: number, store?: KvStore): Promise<Cluster> {
  const clock = new VirtualClock();
  const held = store ?? openMemoryKv({ clock });
  const leaders = Array.from(
    { length: instances },
    (_, i) =>
      new Mgmtd({ nodeId: 90 + i, address: `m${i}`, store: held, clock, onError: () => undefined }),
  );
  for (const leader of leaders) await settle(clock, leader.start());
  const nodes = [1, 2, 3].map((nodeId) => new Node(nodeId));
  const leader = () => leaders.find((instance) => instance.isPrimary);
  const beatAll = async () => {
    const primary = leader();
    if (!primary) return;
    for (const node of nodes) {
      if (!node.isUp) continue;
      const targetIds = [1, 2].map((chainId) => chainId * 100 + node.nodeId);
      await primary.heartbeat(node.beat(targetIds));
      await node.follow(primary);
    }
  };
  return { clock, store: held, leaders, nodes, leader, beatAll };
}

const plan = [1, 2].map((chainId) => ({
  chainId,
  targets: [1, 2, 3].map((nodeId) => ({ targetId: chainId * 100 + nodeId, nodeId })),
}));

async function run(world: Cluster, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 250) {
    await settle(world.clock, world.beatAll()).catch((error) =>
      assert.ok(error instanceof BaleenError, error),
    );
    await pass(world.clock, 250);
  }
}

test("a silent node leaves its chains, comes back by syncing, and the first to die last is waited for", async () => {
  const world = await cluster(1);
  const [mgmtd] = world.leaders;
  await world.beatAll();
  await mgmtd.createChains(plan);
  const table = await mgmtd.setChainTable(1, [1, 2]);
  assert.equal(table.version, 1);
  const first = (await mgmtd.routing(0))!;
  assert.equal(await mgmtd.routing(first.version), null);
  await run(world, 1000);
  world.nodes[0].isUp = false;
  await run(world, 2500);
  const chain = async () => (await mgmtd.routing(0))!.chains[0];
  assert.equal(ids(await chain()), "102:serving 103:serving 101:offline");
  world.nodes[0].restart();
  await run(world, 1500);
  assert.equal(ids(await chain()), "102:serving 103:serving 101:serving");
  for (const node of world.nodes) node.isUp = false;
  await run(world, 2500);
  assert.equal(ids(await chain()), "102:lastsrv 103:offline 101:offline");
  world.nodes[0].restart();
  world.nodes[2].restart();
  await run(world, 1500);
  assert.equal(ids(await chain()), "102:lastsrv 101:waiting 103:waiting");
  world.nodes[1].restart();
  await run(world, 2000);
  assert.equal(ids(await chain()), "102:serving 101:serving 103:serving");
  for (const instance of world.leaders) await instance.stop();
});

test("an old report of being up to date does not make a syncing target serve", async () => {
  const world = await cluster(1);
  const [mgmtd] = world.leaders;
  await world.beatAll();
  await mgmtd.createChains(plan);
  await run(world, 500);
  world.nodes[0].isUp = false;
  await run(world, 2500);
  const lagging = new Node(1);
  lagging.generation = 2;
  await mgmtd.heartbeat(lagging.beat([101]));
  const chain = (await mgmtd.routing(0))!.chains[0];
  assert.equal(ids(chain), "102:serving 103:serving 101:syncing");
  const beat = lagging.beat([101]);
  const old = {
    ...beat,
    targets: [{ ...beat.targets[0], localState: "uptodate", chainVersion: 1 }],
  };
  await mgmtd.heartbeat(old as Heartbeat);
  assert.equal(ids((await mgmtd.routing(0))!.chains[0]), ids(chain));
  await refuses(mgmtd.heartbeat(beat), "mgmtd-stale-version", /node 1/);
});

test("one instance leads; another takes over, knows what was known, and the old one can't write", async () => {
  const world = await cluster(3);
  const old = world.leader()!;
  assert.equal(world.leaders.filter((instance) => instance.isPrimary).length, 1);
  const standby = world.leaders.find((instance) => instance !== old)!;
  await refuses(standby.routing(0), "mgmtd-not-primary");
  await world.beatAll();
  await old.createChains(plan);
  await old.setConfig("storage", { threads: 4 });
  await old.setTags(2, { zone: "b" });
  await old.extendSession("client-1", "a laptop");
  const before = (await old.routing(0))!;
  const { term } = await old.primary();
  await old.stop();
  await pass(world.clock, 1000);
  const next = world.leader()!;
  assert.notEqual(next, old);
  assert.equal((await next.primary()).term, term + 1);
  const after = (await next.routing(0))!;
  assert.deepEqual(after.chains, before.chains);
  assert.deepEqual(after.nodes.find(({ nodeId }) => nodeId === 2)?.tags, { zone: "b" });
  assert.deepEqual((await next.config("storage"))?.values, { threads: 4 });
  assert.equal((await next.sessions())[0].clientId, "client-1");
  assert.equal((await next.setConfig("storage", { threads: 8 })).version, 2);
  await refuses(old.setConfig("storage", {}), "mgmtd-not-primary");
});

test("a paused primary that wakes up after its lease finds that it does not lead", async () => {
  const clocks = [new VirtualClock(), new VirtualClock()];
  const store = openMemoryKv();
  const [paused, other] = clocks.map(
    (clock, i) => new Mgmtd({ nodeId: i + 1, address: `m${i}`, store, clock }),
  );
  await paused.tick();
  await paused.heartbeat(new Node(5).beat([]));
  assert.ok(paused.isPrimary);
  // Its clock stands still while the other's runs on: the lease is lost all the same.
  for (let i = 0; i < 20; i++) {
    clocks[1].advance(250);
    await other.tick();
  }
  assert.ok(other.isPrimary);
  assert.ok(paused.isPrimary, "it can't know yet");
  await refuses(paused.setTags(5, {}), "mgmtd-not-primary");
  assert.ok(!paused.isPrimary);
});

test("clients' sessions end in silence, nodes can be disabled and forgotten, orphans are listed", async () => {
  const world = await cluster(1);
  const [mgmtd] = world.leaders;
  await mgmtd.extendSession("c", "");
  await world.beatAll();
  assert.equal((await mgmtd.orphanTargets()).length, 6);
  await mgmtd.createChains(plan.slice(0, 1));
  assert.equal((await mgmtd.orphanTargets()).length, 3);
  await refuses(mgmtd.unregisterNode(1), "fs-input-invalid", /active/);
  await mgmtd.disableNode(1);
  const status = async () => (await mgmtd.routing(0))!.nodes[0].status;
  await run(world, 500);
  assert.equal(await status(), "disabled");
  assert.equal(ids((await mgmtd.routing(0))!.chains[0]), "102:serving 103:serving 101:offline");
  await refuses(mgmtd.unregisterNode(1), "fs-input-invalid", /target 101 in chain 1/);
  await mgmtd.enableNode(1);
  await run(world, 1000);
  assert.equal(await status(), "active");
  await mgmtd.moveChain(1, { kind: "remove-target", targetId: 101 });
  world.nodes[0].isUp = false;
  await run(world, 2500);
  assert.equal(await status(), "failed");
  await mgmtd.unregisterNode(1);
  assert.equal((await mgmtd.routing(0))!.nodes.length, 2);
  await run(world, 60_000);
  assert.equal((await mgmtd.sessions()).length, 1);
  await pass(world.clock, 20 * 60_000, 10_000);
  await mgmtd.tick();
  assert.equal((await mgmtd.sessions()).length, 0);
});

test("an administrator's moves on chains, and what is refused", async () => {
  const world = await cluster(1);
  const [mgmtd] = world.leaders;
  await refuses(mgmtd.createChains(plan), "fs-input-invalid", /never heard/);
  await world.beatAll();
  await mgmtd.createChains(plan);
  await run(world, 500);
  await mgmtd.moveChain(1, { kind: "shut-down" });
  await run(world, 1000);
  const chain = async () => ids((await mgmtd.routing(0))!.chains[0]);
  assert.equal(await chain(), "101:lastsrv 102:offline 103:offline");
  await mgmtd.moveChain(1, { kind: "rotate-lastsrv" });
  await mgmtd.moveChain(1, { kind: "start-up" });
  await run(world, 2000);
  assert.equal(await chain(), "102:serving 103:serving 101:serving");
  await mgmtd.moveChain(1, { kind: "set-preferred", order: [101, 102, 103] });
  await mgmtd.moveChain(1, { kind: "rotate-preferred" });
  await run(world, 2000);
  assert.equal(await chain(), "103:serving 101:serving 102:serving");
  await refuses(mgmtd.moveChain(1, { kind: "rotate-lastsrv" }), "fs-input-invalid", /lastsrv/);
  const double = { kind: "add-target", targetId: 109, nodeId: 2 } as const;
  await refuses(mgmtd.moveChain(1, double), "fs-input-invalid", /on node 2/);
  await refuses(mgmtd.moveChain(9, { kind: "shut-down" }), "mgmtd-unknown");
  await refuses(mgmtd.createChains(plan), "fs-input-invalid", /exists/);
  await refuses(mgmtd.setChainTable(1, [9]), "fs-input-invalid", /chain 9/);
  await refuses(mgmtd.heartbeat(new Node(0).beat([])), "fs-input-invalid", /nodeId is 0/);
});

const [yes, no] = [() => true, () => false];

test("by seed: nodes and leaders die, the store fails; versions only grow and all serve in the end", async () => {
  const first = Date.now() % 1e6;
  for (let seed = first; seed < first + Number(process.env.BALEEN_SEEDS ?? 8); seed++) {
    const random = new Random(seed);
    const rates = { conflict: 0.05, throttled: 0.05, lostAfter: 0.05, lostBefore: 0.05 };
    const store = faultyKv(openMemoryKv(), rates, random);
    const world = await cluster(3, store);
    await run(world, 6000);
    for (let tries = 0; tries < 40; tries++) {
      const made = world.leader()?.createChains(plan);
      if (made && (await settle(world.clock, made.then(yes, no)))) break;
      await run(world, 500);
    }
    const settled = <T>(promise: Promise<T>): Promise<T | undefined> =>
      settle(
        world.clock,
        promise.catch(() => undefined),
      );
    let versions: readonly number[] = [0, 0];
    let term = 0;
    const check = async () => {
      const leader = world.leader();
      const routing = leader && (await settled(leader.routing(-1)));
      if (!leader || !routing) return;
      const words = `seed ${seed}: ${routing.chains.map(ids).join(" | ")}`;
      const now = routing.chains.map(({ version }) => version);
      assert.ok(now.length === 2 && now.every((version, i) => version >= versions[i]), words);
      versions = now;
      for (const { targets } of routing.chains) {
        const count = (state: string) => targets.filter((target) => target.state === state).length;
        assert.ok(count("syncing") <= 1, words);
        assert.ok(count("serving") + count("lastsrv") > 0, words);
        assert.ok(count("lastsrv") === 0 || count("serving") === 0, words);
        const ranks = targets.map(({ state }) => publicStates.indexOf(state));
        assert.deepEqual(ranks, ranks.toSorted(), words);
      }
      const primary = await settle(world.clock, leader.primary());
      assert.ok(primary.term >= term, words);
      term = primary.term;
    };
    for (let step = 0; step < 25; step++) {
      const node = world.nodes[random.below(3)];
      if (random.below(3) === 0) {
        if (node.isUp) node.isUp = false;
        else node.restart();
      }
      const leader = world.leaders[random.below(3)];
      if (random.below(6) === 0) await settled(leader.stop());
      else if (random.below(3) === 0) await settled(leader.start());
      await run(world, 250 * (1 + random.below(8)));
      await check();
    }
    for (const node of world.nodes) if (!node.isUp) node.restart();
    for (const leader of world.leaders) await settled(leader.start());
    await run(world, 20_000);
    await check();
    const chains = (await world.leader()!.routing(-1))!.chains;
    for (const chain of chains) {
      assert.ok(
        chain.targets.every(({ state }) => state === "serving"),
        `seed ${seed}: ${ids(chain)}`,
      );
    }
    for (const leader of world.leaders) await settled(leader.stop());
  }
});
