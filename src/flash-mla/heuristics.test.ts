import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ceilDiv } from "../base/index.ts";
import { planTasks, visibleKeys } from "./heuristics.ts";
import { type MlaSequence, pageTokens } from "./types.ts";

function sequenceOf(queryCount: number, contextLength: number): MlaSequence {
  return { queryStart: 0, queryCount, contextLength, blockTable: new Int32Array(0) };
}

test("a plan covers every group of every sequence once, with the blocks it sees", () => {
  const lengths = fc.record({ queryCount: fc.nat(70), contextLength: fc.nat(700) });
  fc.assert(
    fc.property(
      fc.array(lengths, { maxLength: 9 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 33 }),
      fc.integer({ min: 1, max: 17 }),
      (all, threads, groupsPerQuery, groupsMax) => {
        const sequences = all.map((one) => sequenceOf(one.queryCount, one.contextLength));
        const tasks = planTasks(sequences, { threads, groupsPerQuery, groupsMax });
        const seen = sequences.map(({ queryCount }) =>
          new Array<number>(queryCount * groupsPerQuery).fill(0),
        );
        for (const { sequence, firstGroup, groups, blocks } of tasks) {
          assert.ok(groups >= 1 && groups <= groupsMax);
          for (let group = firstGroup; group < firstGroup + groups; group++) {
            seen[sequence][group]++;
            const query = Math.floor(group / groupsPerQuery);
            const keys = visibleKeys(sequences[sequence], query);
            assert.ok(ceilDiv(keys, pageTokens) <= blocks);
          }
          assert.ok(blocks <= ceilDiv(sequences[sequence].contextLength, pageTokens));
        }
        for (const counts of seen) assert.ok(counts.every((count) => count === 1));
      },
    ),
  );
});

test("a lone decoding sequence is split over the threads, many are not split", () => {
  const one = planTasks([sequenceOf(1, 5000)], { threads: 2, groupsPerQuery: 4, groupsMax: 16 });
  assert.deepEqual(
    one.map(({ groups }) => groups),
    [2, 2],
  );
  const many = Array.from({ length: 8 }, () => sequenceOf(1, 500));
  const tasks = planTasks(many, { threads: 2, groupsPerQuery: 4, groupsMax: 16 });
  assert.deepEqual(
    tasks.map(({ groups }) => groups),
    new Array(8).fill(4),
  );
});

test("a long sequence among short ones is split, and the largest tasks come first", () => {
  const sequences = [sequenceOf(1, 100), sequenceOf(1, 9000), sequenceOf(1, 200)];
  const tasks = planTasks(sequences, { threads: 4, groupsPerQuery: 32, groupsMax: 16 });
  assert.ok(tasks.filter(({ sequence }) => sequence === 1).length >= 4);
  const works = tasks.map(({ groups, blocks }) => groups * blocks);
  assert.deepEqual(
    works,
    works.toSorted((x, y) => y - x),
  );
});
