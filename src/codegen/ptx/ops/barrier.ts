/** @file Barriers: `mbarrier` objects in shared memory, named barriers of a block, cluster barriers. */

import { type NamedBarrierState, newBarrier } from "../emulator/machine.ts";
import { joinClock, Mbarrier } from "../emulator/mbarrier.ts";
import type { Warp } from "../emulator/warp.ts";
import { describePosition } from "../position.ts";
import { constantOf, type Op, signature } from "./op.ts";

/** The barrier object at a shared address, own or mapped. */
export function mbarrierAt(warp: Warp, address: number): Mbarrier {
  const { cta, offset } = warp.sharedAt(address, 8);
  const barrier = cta.mbarriers.get(offset);
  if (!barrier)
    warp.fault("mbarrier-misuse", `there is no initialised mbarrier at address ${address}`);
  return barrier;
}

/** Makes the 8 bytes at an address an mbarrier for `count` arrivals a phase. */
export const MbarInit: Op<"MbarInit"> = {
  verify: signature(
    "<u",
    ({ attr: { count } }) => (count < 1 || count > 0xfffff) && `count ${count}`,
  ),
  emit(node, e) {
    e.line(`mbarrier.init.shared::cta.b64 [${e.name(node.src[0])}], ${node.attr.count};`);
  },
  exec(step, warp) {
    const l = warp.singleLane("mbarrier.init");
    const { cta, offset } = warp.sharedAt(warp.u32[step.s[0] + l], 8);
    if (offset % 8 !== 0) warp.fault("misaligned", `an mbarrier at offset ${offset}`);
    const site = describePosition(step.node.at);
    const barrier = new Mbarrier(`mbarrier at +${offset} (${site})`, step.attr.count, warp);
    cta.mbarriers.set(offset, barrier);
    cta.unfenced.push(barrier);
  },
};

/** Ends the life of an mbarrier, whose bytes may then serve otherwise. */
export const MbarInval: Op<"MbarInval"> = {
  verify: signature("<u"),
  emit(node, e) {
    e.line(`mbarrier.inval.shared::cta.b64 [${e.name(node.src[0])}];`);
  },
  exec(step, warp) {
    const l = warp.singleLane("mbarrier.inval");
    const address = warp.u32[step.s[0] + l];
    const barrier = mbarrierAt(warp, address);
    if (!barrier.balanced)
      warp.fault("mbarrier-misuse", `invalidated in a phase: ${barrier.describe()}`);
    const { cta, offset } = warp.sharedAt(address, 8);
    cta.mbarriers.delete(offset);
  },
};

/** One arrival by each lane that is on; `remote` takes a mapped address of any block of the cluster. */
export const MbarArrive: Op<"MbarArrive"> = {
  verify: signature("<u"),
  emit(node, e) {
    const address = e.name(node.src[0]);
    if (node.attr.remote)
      e.line(`mbarrier.arrive.release.cluster.shared::cluster.b64 _, [${address}];`);
    else e.line(`mbarrier.arrive.shared::cta.b64 _, [${address}];`);
  },
  exec(step, warp) {
    warp.each((l) => {
      const barrier = mbarrierAt(warp, warp.u32[step.s[0] + l]);
      barrier.checkVisible(warp, step.attr.remote);
      barrier.arrive(warp);
    });
    warp.release();
  },
};

/** Announces bytes of the current phase, with or without arriving; operands `address, bytes`. */
export const MbarExpect: Op<"MbarExpect"> = {
  verify: signature("<uu"),
  emit(node, e) {
    const [address, bytes] = node.src.map((r) => e.name(r));
    if (node.attr.arrive) {
      e.line(`mbarrier.arrive.expect_tx.shared::cta.b64 _, [${address}], ${bytes};`);
    } else e.line(`mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [${address}], ${bytes};`);
  },
  exec(step, warp) {
    const l = warp.singleLane("mbarrier.expect_tx");
    const barrier = mbarrierAt(warp, warp.u32[step.s[0] + l]);
    barrier.checkVisible(warp, false);
    barrier.expect(warp.u32[step.s[1] + l]);
    if (!step.attr.arrive) return;
    barrier.arrive(warp);
    warp.release();
  },
};

/** Waits until the phase of a parity has completed; operands `address, parity`. */
export const MbarWait: Op<"MbarWait"> = {
  verify: signature("<uu"),
  emit(node, e) {
    const [address, parity] = node.src.map((r) => e.name(r));
    const [again, done] = [e.label(), e.fresh("pred")];
    const scope = node.attr.scope === "cluster" ? ".acquire.cluster" : "";
    e.place(again);
    e.line(`mbarrier.try_wait.parity${scope}.shared::cta.b64 ${done}, [${address}], ${parity};`);
    e.line(`@!${done} bra ${again};`);
  },
  exec(step, warp) {
    const barrier = mbarrierAt(warp, warp.uniform(step.s[0], "the mbarrier"));
    const parity = warp.uniform(step.s[1], "the parity") & 1;
    barrier.checkVisible(warp, false);
    warp.waitFor(
      () => barrier.isDone(parity),
      () => barrier.acquire(warp),
      () => `parity ${parity} of ${barrier.describe()}`,
    );
  },
};

/** `warp` arrives with `threads` wanted in all; returns the generation to wait for. */
function arriveAt(barrier: NamedBarrierState, warp: Warp, threads: number, what: string): number {
  if (barrier.arrived > 0 && barrier.wanted !== threads) {
    warp.fault(
      "barrier-misuse",
      `${what} for ${threads} threads, but others gave ${barrier.wanted}`,
    );
  }
  const { generation } = barrier;
  barrier.wanted = threads;
  barrier.arrived += 32;
  joinClock(barrier.clock, warp.clock);
  joinClock(barrier.fenced, warp.fenced);
  warp.release();
  if (barrier.arrived > threads)
    warp.fault("barrier-misuse", `${what}: more than ${threads} arrive`);
  if (barrier.arrived === threads) {
    barrier.done = { clock: barrier.clock.slice(), fenced: barrier.fenced.slice() };
    barrier.arrived = 0;
    barrier.generation++;
  }
  return generation;
}

function waitAt(barrier: NamedBarrierState, warp: Warp, generation: number, what: string): void {
  warp.waitFor(
    () => barrier.generation > generation,
    () => warp.acquireFrom(barrier.done.clock, barrier.done.fenced),
    () => `${what}: ${barrier.arrived} of ${barrier.wanted} threads are there`,
  );
}

/** `bar.sync` or `bar.arrive`; operands `number, threads`. */
export const NamedBarrier: Op<"NamedBarrier"> = {
  verify: signature("<uu", (node) => {
    const [id, threads] = node.src.map(constantOf);
    if (id !== undefined && id > 15) return `barrier ${id}, wanted 0 to 15`;
    return threads !== undefined && threads % 32 !== 0 && `${threads} threads, no whole warps`;
  }),
  emit(node, e) {
    const [id, threads] = node.src.map((r) => e.name(r));
    e.line(`bar.${node.attr.mode} ${id}, ${threads};`);
  },
  exec(step, warp) {
    warp.needFullMask("bar");
    const id = warp.uniform(step.s[0], "the barrier");
    const threads = warp.uniform(step.s[1], "the number of threads");
    let barrier = warp.cta.named.get(id);
    if (!barrier) {
      barrier = newBarrier(warp.machine.agents);
      warp.cta.named.set(id, barrier);
    }
    const what = `barrier ${id}`;
    const generation = arriveAt(barrier, warp, threads, what);
    if (step.attr.mode === "sync") waitAt(barrier, warp, generation, what);
  },
};

/** Half of a barrier of all threads of a cluster. */
export const ClusterBarrier: Op<"ClusterBarrier"> = {
  verify: signature("<"),
  emit(node, e) {
    const order = node.attr.mode === "arrive" ? "release" : "acquire";
    e.line(`barrier.cluster.${node.attr.mode}.${order}.aligned;`);
  },
  exec(step, warp) {
    warp.needFullMask("barrier.cluster");
    const { barrier, ctas } = warp.cta.cluster;
    const what = "the cluster's barrier";
    if (step.attr.mode === "arrive") {
      const threads = ctas.length * warp.machine.kernel.threads;
      warp.clusterGeneration = arriveAt(barrier, warp, threads, what);
    } else if (warp.clusterGeneration < 0)
      warp.fault("barrier-misuse", "waits without having arrived");
    else {
      waitAt(barrier, warp, warp.clusterGeneration, what);
      warp.clusterGeneration = -1;
    }
  },
};

/** `dst` = the address of the same place in another block; operands `address, rank`. */
export const MapShared: Op<"MapShared"> = {
  verify: signature("u<uu"),
  emit(node, e) {
    const [address, rank] = node.src.map((r) => e.name(r));
    e.line(`mapa.shared::cluster.u32 ${e.name(node.dst[0])}, ${address}, ${rank};`);
  },
  exec(step, warp) {
    const [address, rank] = step.s;
    warp.each((l) => {
      const to = warp.u32[rank + l];
      if (to >= warp.cta.cluster.ctas.length)
        warp.fault("out-of-bounds", `rank ${to} of the cluster`);
      warp.u32[step.d[0] + l] = ((to + 1) << 24) | (warp.u32[address + l] & 0xffffff);
    });
  },
};
