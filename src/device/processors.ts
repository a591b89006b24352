/**
 * @file How many threads are worth having: cores, not their hyper-threads, within the container's
 * share.
 */
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

/** More threads than this share one launch's counters badly. */
const threadsMax = 64;

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** The numbers in a list such as `0-3,8`. */
export function numbersIn(list: string): number[] {
  return list.split(",").flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/**
 * Cores among the processors that this process may run on; undefined where the system does not
 * tell.
 */
function physicalCores(): number | undefined {
  const status = textOf("/proc/self/status");
  const allowed = /^Cpus_allowed_list:\s*([\d,-]+)$/m.exec(status ?? "")?.[1];
  if (allowed === undefined) return undefined;
  const siblings = numbersIn(allowed).map((cpu) =>
    textOf(`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`),
  );
  return siblings.includes(undefined) ? undefined : new Set(siblings).size;
}

/**
 * Processors' worth of time that `quota` and `period` in microseconds allow, such as `"150000
 * 100000"` (control groups, version 2: `cpu.max`); undefined when there is no limit.
 */
export function processorsOfQuota(cpuMax: string): number | undefined {
  const [quota, period] = cpuMax.split(/\s+/).map(Number);
  return quota > 0 && period > 0 ? Math.max(1, Math.ceil(quota / period)) : undefined;
}

/**
 * The least share that this process's control group or one above it grants; undefined without
 * limits.
 */
function controlGroupShare(): number | undefined {
  const root = "/sys/fs/cgroup";
  const path = /^0::(.*)$/m.exec(textOf("/proc/self/cgroup") ?? "")?.[1] ?? "";
  const parts = path.split("/").filter(Boolean);
  const limits = Array.from({ length: parts.length + 1 }, (_, depth) =>
    [root, ...parts.slice(0, depth), "cpu.max"].join("/"),
  ).map(textOf);
  const oldQuota = textOf(`${root}/cpu/cpu.cfs_quota_us`);
  const oldPeriod = textOf(`${root}/cpu/cpu.cfs_period_us`);
  const shares = [...limits, `${oldQuota} ${oldPeriod}`]
    .map((limit) => (limit === undefined ? undefined : processorsOfQuota(limit)))
    .filter((share) => share !== undefined);
  return shares.length === 0 ? undefined : Math.min(...shares);
}

/** Processors that can really run at once: what the system offers, within the container's share. */
export function usableProcessors(): number {
  return Math.min(availableParallelism(), controlGroupShare() ?? Number.POSITIVE_INFINITY);
}

/** Threads of a device when nobody says: one per core, within the container's share, 64 at most. */
export function defaultThreads(): number {
  const cores = physicalCores() ?? availableParallelism();
  return Math.max(1, Math.min(usableProcessors(), cores, threadsMax));
}
