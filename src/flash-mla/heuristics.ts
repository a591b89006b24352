/**
 * @file How a call is cut into tasks: pure arithmetic that decides speed, never bits.
 *
 * A group is up to `groupRows` heads of one query, the unit of the kernel's tiles; the groups of a
 * sequence are numbered query by query. A task is a run of groups of one sequence, which read each
 * block of the cache together: the longer the run, the less is read; the shorter, the more threads
 * find work. Work is counted in blocks of 64 keys times groups.
 */
import { ceilDiv } from "../base/index.ts";
import { type MlaSequence, pageTokens } from "./types.ts";

/** What a task computes. */
export interface MlaTask {
  /** Index of its sequence. */
  readonly sequence: number;
  /** Number of its first group in the sequence. */
  readonly firstGroup: number;
  readonly groups: number;
  /** Blocks that its last query sees. */
  readonly blocks: number;
}

/** What the plan depends on besides the sequences. */
export interface PlanOptions {
  readonly threads: number;
  readonly groupsPerQuery: number;
  /** The most groups that a task may have. */
  readonly groupsMax: number;
}

/** Keys that query `index` of a sequence sees: none where its position is negative. */
export function visibleKeys(sequence: MlaSequence, index: number): number {
  return Math.max(0, sequence.contextLength - sequence.queryCount + index + 1);
}

/**
 * Cuts a call into tasks, largest first. Each thread gets about one task or more of equal work
 * where the groups allow it: a lone decoding sequence is split over the threads by its heads.
 */
export function planTasks(sequences: readonly MlaSequence[], options: PlanOptions): MlaTask[] {
  const { threads, groupsPerQuery, groupsMax } = options;
  const works = sequences.map(
    ({ queryCount, contextLength }) =>
      queryCount * groupsPerQuery * Math.max(1, ceilDiv(contextLength, pageTokens)),
  );
  const share = works.reduce((sum, work) => sum + work, 0) / threads;
  const tasks: MlaTask[] = [];
  sequences.forEach((sequence, index) => {
    const groups = sequence.queryCount * groupsPerQuery;
    if (groups === 0) return;
    const parts = Math.max(ceilDiv(groups, groupsMax), Math.ceil(works[index] / share - 0.01));
    const size = ceilDiv(groups, Math.min(parts, groups));
    for (let firstGroup = 0; firstGroup < groups; firstGroup += size) {
      const count = Math.min(size, groups - firstGroup);
      const last = Math.floor((firstGroup + count - 1) / groupsPerQuery);
      const blocks = ceilDiv(visibleKeys(sequence, last), pageTokens);
      tasks.push({ sequence: index, firstGroup, groups: count, blocks });
    }
  });
  return tasks.sort((x, y) => y.groups * y.blocks - x.groups * x.blocks);
}
