import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  blockTokens,
  planStep,
  type RankState,
  type SchedulerLimits,
  type SequenceView,
} from "./scheduler.ts";

interface FakeSequence extends SequenceView {
  readonly name: string;
  readonly cachedBlocks: number;
  readonly idleBlocks: number;
  readonly missing: string | undefined;
}

const blocksOf = (tokens: number) => Math.ceil(tokens / blockTokens);

const waitingSequence = fc
  .record({
    length: fc.integer({ min: 1, max: 400 }),
    cached: fc.nat(6),
    idle: fc.nat(6),
    missing: fc.option(fc.constantFrom("a", "b", "c"), { nil: undefined }),
  })
  .map(({ length, cached, idle, missing }): Omit<FakeSequence, "name"> => {
    const cachedBlocks = Math.min(cached, Math.floor((length - 1) / blockTokens));
    const idleBlocks = Math.min(idle, cachedBlocks);
    return { length, computed: 0, drafts: 0, blockCount: 0, cachedBlocks, idleBlocks, missing };
  });

/** Lengths at which a decoding sequence needs its next block are as common as all others. */
const runningLength = fc.oneof(
  fc.integer({ min: 2, max: 400 }),
  fc.integer({ min: 1, max: 6 }).map((blocks) => blocks * blockTokens + 1),
);

const runningSequence = fc
  .record({ length: runningLength, decodes: fc.boolean(), computed: fc.nat() })
  .chain(({ length, decodes, computed }) => {
    const done = decodes ? length - 1 : computed % (length - 1);
    // A prompt has blocks for all of it; a decoding sequence may have to get its next one.
    const blockCount = blocksOf(decodes ? done : length);
    const drafts = decodes ? fc.nat(1) : fc.constant(0);
    const fixed = { length, computed: done, cachedBlocks: 0, idleBlocks: 0, missing: undefined };
    return drafts.map((count) => ({ ...fixed, blockCount, drafts: count }));
  });

const state = fc
  .record({
    freeBlocks: fc.oneof(fc.constant(0), fc.nat(12)),
    running: fc.array(runningSequence, { maxLength: 6 }),
    waiting: fc.array(waitingSequence, { maxLength: 8 }),
    shared: fc.nat(2),
    expected: fc.subarray(["a", "b"]),
  })
  .map(
    ({ freeBlocks, running, waiting, shared, expected }): RankState<FakeSequence> => ({
      rank: 0,
      freeBlocks,
      running: running.map((sequence, i) => ({ ...sequence, name: `r${i}` })),
      waiting: waiting.map((sequence, i) => ({ ...sequence, name: `w${i}` })),
      match: ({ cachedBlocks, idleBlocks, missing }) => ({
        blocks: cachedBlocks,
        idle: idleBlocks,
        missing,
      }),
      releasable: ({ blockCount }) => Math.max(0, blockCount - shared),
      isExpected: (key) => expected.includes(key),
    }),
  );

const limits = fc
  .record({
    maxSequences: fc.integer({ min: 1, max: 10 }),
    extra: fc.integer({ min: 1, max: 300 }),
  })
  .map(({ maxSequences, extra }): SchedulerLimits => {
    return { maxSequences, tokenBudget: Math.max(maxSequences, 8) + extra };
  });

test("a plan keeps to the budget, the slots and the blocks, and counts each sequence once", () => {
  fc.assert(
    fc.property(state, limits, (rank, bounds) => {
      const [plan] = planStep([rank], bounds);
      const computed = plan.work.reduce((sum, share) => sum + share.tokens + share.drafts, 0);
      assert.ok(computed <= bounds.tokenBudget);
      const running = rank.running.length - plan.preempt.length + plan.admit.length;
      assert.ok(plan.admit.length === 0 || running <= bounds.maxSequences);

      let free = rank.freeBlocks;
      for (const sequence of plan.preempt) free += rank.releasable(sequence);
      for (const { sequence, cachedBlocks } of plan.admit) {
        assert.equal(cachedBlocks, sequence.cachedBlocks);
        free -= blocksOf(sequence.length) - cachedBlocks + sequence.idleBlocks;
      }
      for (const { sequence, tokens, drafts } of plan.work) {
        if (rank.waiting.includes(sequence)) continue;
        const blocks = blocksOf(sequence.computed + tokens + drafts) - sequence.blockCount;
        free -= Math.max(0, blocks);
      }
      assert.ok(free >= 0, `${-free} blocks were promised twice`);

      const due = plan.work.map(({ sequence }) => sequence);
      assert.equal(new Set(due).size, due.length);
      assert.ok(!due.some((sequence) => plan.preempt.includes(sequence)));
      for (const { sequence, tokens, drafts, draws } of plan.work) {
        const start = Math.max(sequence.computed, sequence.cachedBlocks * blockTokens);
        assert.ok(tokens >= 1 && start + tokens <= sequence.length);
        assert.equal(draws, start + tokens === sequence.length);
        assert.ok(drafts === 0 || (draws && drafts === sequence.drafts));
      }
    }),
    { numRuns: 2000 },
  );
});

test("the youngest are preempted, never the oldest, and only for want of blocks", () => {
  fc.assert(
    fc.property(state, limits, (rank, bounds) => {
      const [plan] = planStep([rank], bounds);
      const { running } = rank;
      const kept = running.length - plan.preempt.length;
      assert.deepEqual(plan.preempt, running.slice(kept).toReversed());
      assert.ok(running.length === 0 || kept > 0);
      const wanted = running.filter((s) => blocksOf(s.length) > s.blockCount).length;
      if (wanted <= rank.freeBlocks) assert.equal(plan.preempt.length, 0);
      if (plan.preempt.length > 0) assert.equal(plan.admit.length, 0);
    }),
    { numRuns: 2000 },
  );
});

test("requests are admitted in order; only those whose next block is on its way are passed", () => {
  fc.assert(
    fc.property(state, limits, (rank, bounds) => {
      const [plan] = planStep([rank], bounds);
      const admitted = plan.admit.map(({ sequence }) => sequence);
      const last = admitted.length === 0 ? -1 : rank.waiting.indexOf(admitted.at(-1)!);
      const keys = new Set<string>();
      for (const sequence of rank.waiting.slice(0, last + 1)) {
        const { missing } = sequence;
        const held = missing !== undefined && (keys.has(missing) || rank.isExpected(missing));
        assert.equal(admitted.includes(sequence), !held);
        if (missing !== undefined) keys.add(missing);
      }
    }),
    { numRuns: 2000 },
  );
});

test("an idle rank admits whatever fits into it", () => {
  fc.assert(
    fc.property(waitingSequence, limits, (sequence, bounds) => {
      const freeBlocks = blocksOf(sequence.length) - sequence.cachedBlocks + sequence.idleBlocks;
      const waiting = [{ ...sequence, name: "w" }];
      const rank: RankState<FakeSequence> = {
        rank: 3,
        freeBlocks,
        running: [],
        waiting,
        match: (s) => ({ blocks: s.cachedBlocks, idle: s.idleBlocks, missing: s.missing }),
        releasable: () => 0,
        isExpected: () => false,
      };
      const [plan] = planStep([rank], bounds);
      assert.equal(plan.rank, 3);
      assert.deepEqual(
        plan.admit.map((admission) => admission.sequence),
        waiting,
      );
    }),
  );
});

test("decoding comes before prompts, and drafts take only what is left", () => {
  const view = (name: string, length: number, computed: number, drafts: number): FakeSequence => ({
    name,
    length,
    computed,
    drafts,
    blockCount: blocksOf(length),
    cachedBlocks: 0,
    idleBlocks: 0,
    missing: undefined,
  });
  const rank: RankState<FakeSequence> = {
    rank: 0,
    freeBlocks: 1,
    running: [view("prompt", 300, 0, 0), view("x", 64, 63, 1), view("y", 128, 127, 1)],
    waiting: [],
    match: () => ({ blocks: 0, idle: 0, missing: undefined }),
    releasable: () => 0,
    isExpected: () => false,
  };
  const [plan] = planStep([rank], { maxSequences: 4, tokenBudget: 100 });
  const shares = plan.work.map(({ sequence, tokens, drafts }) => [sequence.name, tokens, drafts]);
  // Both drafts need a block and one is free; the prompt gets the rest of the budget.
  assert.deepEqual(shares, [
    ["x", 1, 1],
    ["y", 1, 0],
    ["prompt", 97, 0],
  ]);
});
