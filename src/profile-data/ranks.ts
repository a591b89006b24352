/**
 * @file Who keeps the others waiting: the same collective on several ranks ends at about one time, so
 * the rank that spends least time in it came last, and the others waited by what they spent more.
 * Needs no common clock. Collectives are matched by kernel name and turn.
 */
import type { DeviceProfile } from "./report.ts";

/** A rank's share of the waiting; times in microseconds. */
export interface RankReport {
  readonly name: string;
  readonly spanUs: number;
  readonly computationUs: number;
  readonly communicationUs: number;
  /** Time in matched collectives beyond that of the rank that came last. */
  readonly waitUs: number;
  /** Matched collectives to which it came last, alone. */
  readonly timesLast: number;
  /** What the other ranks waited, in sum, in those. */
  readonly causedUs: number;
}

/** The ranks beside each other. */
export interface StragglerReport {
  readonly ranks: readonly RankReport[];
  /** Collectives that all ranks have. */
  readonly matched: number;
  /** Collectives that some rank lacks: not used. */
  readonly unmatched: number;
}

/** Compares the communication of ranks, each a device's profile under a name. */
export function findStragglers(
  ranks: readonly { readonly name: string; readonly profile: DeviceProfile }[],
): StragglerReport {
  const durations = ranks.map(({ profile }) => durationsOf(profile));
  const keys = new Set(durations.flatMap((map) => [...map.keys()]));
  const waitNs = ranks.map(() => 0);
  const causedNs = ranks.map(() => 0);
  const timesLast = ranks.map(() => 0);
  let [matched, unmatched] = [0, 0];
  for (const key of keys) {
    const lists = durations.map((map) => map.get(key) ?? []);
    const shared = Math.min(...lists.map(({ length }) => length));
    matched += shared;
    unmatched += Math.max(...lists.map(({ length }) => length)) - shared;
    for (let turn = 0; turn < shared; turn++) {
      const times = lists.map((list) => list[turn]);
      const least = Math.min(...times);
      const last = times.indexOf(least);
      const alone = ranks.length > 1 && times.lastIndexOf(least) === last;
      times.forEach((time, rank) => {
        waitNs[rank] += time - least;
        if (alone) causedNs[last] += time - least;
      });
      if (alone) timesLast[last]++;
    }
  }
  return {
    matched,
    unmatched,
    ranks: ranks.map(({ name, profile: { report } }, rank) => ({
      name,
      spanUs: report.spanUs,
      computationUs: report.computationUs,
      communicationUs: report.communicationUs,
      waitUs: waitNs[rank] / 1000,
      timesLast: timesLast[rank],
      causedUs: causedNs[rank] / 1000,
    })),
  };
}

/** Durations of a device's communication kernels by name, in the order of starts. */
function durationsOf({ trace, operations }: DeviceProfile): Map<string, number[]> {
  const { count, row, start, end, communication } = operations;
  const lists = new Map<string, number[]>();
  for (let i = 0; i < count; i++) {
    if (communication[i] === 0) continue;
    const name = trace.strings.text(trace.name[row[i]]);
    const list = lists.get(name);
    if (list) list.push(end[i] - start[i]);
    else lists.set(name, [end[i] - start[i]]);
  }
  return lists;
}
