import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BaleenError } from "../../base/index.ts";
import { planPlacement } from "./plan.ts";
import { rebalancePlacement } from "./rebalance.ts";

const alike = (numNodes: number, targets: number) =>
  Array.from({ length: numNodes }, (_, i) => ({ nodeId: 10 + i, targets }));

const uses = (chains: readonly (readonly number[])[], nodeId: number): number =>
  chains.filter((chain) => chain.includes(nodeId)).length;

/** Counts by pair, computed anew. */
function spreadOf(chains: readonly (readonly number[])[], ids: readonly number[]): number {
  const counts = ids.flatMap((x, i) =>
    ids.slice(0, i).map((y) => chains.filter((c) => c.includes(x) && c.includes(y)).length),
  );
  return Math.max(...counts) - Math.min(...counts);
}

test("known balanced designs are found: every pair of nodes shares equally many chains", () => {
  const designs: [numNodes: number, replicas: number, targets: number][] = [
    [6, 2, 5],
    [7, 3, 3],
    [13, 4, 4],
    [13, 3, 6],
    [21, 5, 5],
    [31, 3, 15],
    [5, 3, 6],
    [9, 3, 4],
  ];
  for (const [numNodes, replicas, targets] of designs) {
    const plan = planPlacement(alike(numNodes, targets), replicas);
    const { fewest, most } = plan.pairs;
    assert.equal(
      most - fewest,
      0,
      `(${numNodes}, ${replicas}), ${targets} targets: ${plan.source}`,
    );
  }
});

test("any nodes get chains: room is used, members differ, heads and pairs are even", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 4, maxLength: 14 }),
      fc.boolean(),
      (replicas, rooms, same) => {
        const nodes = rooms.map((room, i) => ({ nodeId: 10 + i, targets: same ? rooms[0] : room }));
        const { chains, pairs } = planPlacement(nodes, replicas, { effort: 0.05 });
        const ids = nodes.map(({ nodeId }) => nodeId);
        for (const chain of chains) {
          assert.equal(chain.length, replicas);
          assert.equal(new Set(chain).size, replicas);
        }
        for (const { nodeId, targets } of nodes) assert.ok(uses(chains, nodeId) <= targets);
        assert.equal(pairs.most - pairs.fewest, spreadOf(chains, ids));
        if (!same) return;
        assert.equal(chains.length, Math.floor((nodes.length * rooms[0]) / replicas));
        const heads = ids.map((id) => chains.filter(([head]) => head === id).length);
        assert.ok(Math.max(...heads) - Math.min(...heads) <= 1, `heads ${heads}`);
        assert.ok(pairs.most - pairs.fewest <= 2, JSON.stringify(pairs));
      },
    ),
    { numRuns: 60 },
  );
});

test("a rebalance moves the fewest replicas, drains what is gone, and keeps pairs even", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 5, max: 10 }),
      fc.integer({ min: 2, max: 8 }),
      fc.integer({ min: 0, max: 2 }),
      fc.integer({ min: 0, max: 3 }),
      (replicas, numNodes, targets, gone, added) => {
        const before = planPlacement(alike(numNodes, targets), replicas, { effort: 0.05 });
        const nodes = alike(numNodes + added, targets).slice(gone);
        const { chains, moves, fewestMoves, pairs } = rebalancePlacement(before.chains, nodes, {
          effort: 0.2,
        });
        const ids = nodes.map(({ nodeId }) => nodeId);
        assert.equal(chains.length, before.chains.length);
        const counts = ids.map((id) => uses(chains, id));
        assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, `${counts}`);
        assert.equal(
          counts.reduce((sum, count) => sum + count, 0),
          chains.length * replicas,
        );
        assert.equal(moves.length, fewestMoves);
        const replayed = before.chains.map((chain) => [...chain]);
        for (const { chain, from, to } of moves) {
          replayed[chain][replayed[chain].indexOf(from)] = to;
        }
        replayed.forEach((chain, i) => {
          assert.deepEqual([...chain].sort(), [...chains[i]].sort());
          assert.equal(new Set(chain).size, replicas);
        });
        if (gone === 0 && added === 0) assert.equal(moves.length, 0);
        if (gone === 0 && replicas > 1) {
          assert.ok(pairs.most - pairs.fewest <= Math.max(3, targets / 2), JSON.stringify(pairs));
        }
      },
    ),
    { numRuns: 60, examples: [[2, 6, 7, 1, 3]] },
  );
});

test("weights count, and input that can't work is refused in a sentence", () => {
  const before = planPlacement(alike(6, 6), 3);
  const nodes = [...alike(6, 6), { nodeId: 99, targets: 12 }];
  const { chains } = rebalancePlacement(before.chains, nodes);
  assert.equal(uses(chains, 99), 9);
  const wrong: [() => unknown, RegExp][] = [
    [() => planPlacement(alike(2, 3), 3), /^nodes has 2 with room for 3 replicas/],
    [() => planPlacement(alike(3, 1.5), 2), /^targets of node 10 is 1.5/],
    [() => planPlacement(alike(3, 1), 0), /^replicas is 0/],
    [() => planPlacement([...alike(3, 1), ...alike(1, 1)], 2), /^nodes names a node twice/],
    [() => rebalancePlacement([[1, 2], [1]], alike(4, 1)), /^current has a chain/],
  ];
  for (const [call, message] of wrong) {
    assert.throws(call, (error) => error instanceof BaleenError && message.test(error.message));
  }
});
