import assert from "node:assert/strict";
import { test } from "node:test";
import { BaleenError } from "../base/index.ts";
import { errnoOf, fsError, Routing, type RoutingInfo } from "./index.ts";

const info: RoutingInfo = {
  version: 7,
  nodes: [{ nodeId: 1, kind: "storage", addresses: [], status: "active", tags: {} }],
  targets: [
    {
      targetId: 101,
      nodeId: 1,
      diskIndex: 0,
      chainId: 5,
      publicState: "serving",
      localState: "uptodate",
      usedBytes: 0,
      freeBytes: 1,
    },
  ],
  chains: [4, 5, 6].map((chainId) => ({
    chainId,
    version: 1,
    targets: [
      { targetId: 101, state: "serving" },
      { targetId: 102, state: "syncing" },
      { targetId: 103, state: "offline" },
    ],
    preferredOrder: [],
  })),
  chainTables: [
    { tableId: 1, version: 1, chainIds: [4, 5, 6] },
    { tableId: 1, version: 2, chainIds: [4] },
  ],
};

test("chunks go round the stripe from the seed, and the table's version is honoured", () => {
  const routing = new Routing(info);
  const layout = { tableId: 1, tableVersion: 1, chunkBytes: 65536, stripe: 2, seed: 2 };
  const chains = [0, 1, 2, 3].map((index) => routing.chainOf(layout, index).chainId);
  assert.deepEqual(chains, [6, 4, 6, 4]);
  assert.equal(routing.newestTable(1).version, 2);
});

test("reads go to what serves, writes also to what is being filled", () => {
  const routing = new Routing(info);
  const ids = (targets: readonly { targetId: number }[]) => targets.map((t) => t.targetId);
  assert.deepEqual(ids(routing.writers(5)), [101, 102]);
  assert.deepEqual(ids(routing.readers(5)), [101]);
});

test("what is not in routing is refused by name, and errors have an errno", () => {
  const routing = new Routing(info);
  for (const [look, words] of [
    [() => routing.chain(9), "chain 9 "],
    [() => routing.target(9), "target 9 "],
    [() => routing.node(9), "node 9 "],
    [() => routing.chainTable(1, 3), "chain table 1@3 "],
    [() => routing.newestTable(3), "chain table 3 "],
  ] as const) {
    const named = (error: unknown) =>
      error instanceof BaleenError && error.message.startsWith(words);
    assert.throws(look, named);
  }
  assert.equal(errnoOf(fsError("fs-not-found", "x")), "ENOENT");
  assert.equal(errnoOf(new Error("x")), "EIO");
});
