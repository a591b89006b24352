/** @file Litmus tests of order: mbarriers, named and cluster barriers, flags in global memory. */
import { stageKernel } from "../dsl/builder.ts";
import { Barriers, initBarriers } from "../dsl/pipeline.ts";
import { counting, type Litmus } from "./litmus.ts";

function freshParity(): Litmus {
  const kernel = stageKernel("mbarrier_parity", { threads: 64 }, (k) => {
    const out = k.paramPointer("out");
    const box = k.shared(256, 128);
    const barrier = new Barriers(k, 1, 64);
    initBarriers(k, [barrier]);
    const own = k.threadId.mad(4, box);
    const other = k.u32(63).sub(k.threadId).mad(4, box);
    barrier.wait(0, 1); // would hang if it waited
    k.store("shared", own, [k.threadId]);
    barrier.arrive(0);
    barrier.wait(0, 0);
    const [first] = k.load("shared", other);
    barrier.arrive(0);
    barrier.wait(0, 1);
    k.store("shared", own, [first.add(100)]);
    barrier.arrive(0);
    barrier.wait(0, 0);
    k.store("global", out.at(k.threadId, 4), k.load("shared", other));
  });
  return {
    name: kernel.name,
    prediction: "on a fresh mbarrier parity 1 counts as complete; then phases alternate 0, 1",
    kernel,
    blocks: 1,
    prepare(memory) {
      const output = memory.output("out", 256);
      return { args: [output.address], output, expected: counting(64).map((i) => i + 100) };
    },
  };
}

/** Warp 0 hands words to warp 1 through shared memory. */
function handOver(how: "mbarrier" | "named"): Litmus {
  const kernel = stageKernel(`hand_over_${how}`, { threads: 64 }, (k) => {
    const out = k.paramPointer("out");
    const box = k.shared(128, 128);
    const full = new Barriers(k, 1, 32);
    const barrier = k.namedBarrier(1, 64);
    if (how === "mbarrier") initBarriers(k, [full]);
    k.if(
      k.warp.eq(0),
      () => {
        k.store("shared", k.lane.mad(4, box), [k.lane.add(7)]);
        if (how === "named") barrier.arrive();
        else full.arrive(0);
      },
      () => {
        if (how === "named") barrier.sync();
        else full.wait(0, 0);
        const other = k.u32(31).sub(k.lane);
        k.store("global", out.at(k.lane, 4), k.load("shared", other.mad(4, box)));
      },
    );
  });
  return {
    name: kernel.name,
    prediction: `${how === "named" ? "bar.arrive releases what bar.sync" : "mbarrier.arrive releases what try_wait"} acquires`,
    kernel,
    blocks: 1,
    prepare(memory) {
      const output = memory.output("out", 128);
      return { args: [output.address], output, expected: counting(32).map((i) => 38 - i) };
    },
  };
}

function remoteArrive(): Litmus {
  const kernel = stageKernel("mbarrier_remote_arrive", { threads: 32, clusterSize: 2 }, (k) => {
    const out = k.paramPointer("out");
    const box = k.shared(128, 128);
    const full = new Barriers(k, 1, 2);
    initBarriers(k, [full]);
    // Each block writes into the other, then one lane arrives at both.
    const theirs = k.mapShared(box, k.u32(1).sub(k.clusterRank));
    const value = k.clusterRank.mad(100, k.lane);
    k.store("shared::cluster", k.lane.mad(4, theirs), [value]);
    k.syncWarp();
    k.if(k.lane.lt(2), () => full.arriveAt(0, k.lane));
    full.wait(0, 0);
    const at = out.at(k.clusterRank.mad(32, k.lane), 4);
    k.store("global", at, k.load("shared", k.lane.mad(4, box)));
    k.syncCluster();
  });
  return {
    name: kernel.name,
    prediction: "a remote arrive releases at cluster scope what was stored into the peer",
    kernel,
    blocks: 2,
    prepare(memory) {
      const output = memory.output("out", 256);
      const expected = counting(64).map((i) => (i % 32) + (i < 32 ? 100 : 0));
      return { args: [output.address], output, expected };
    },
  };
}

function clusterBarrier(): Litmus {
  const kernel = stageKernel("cluster_barrier", { threads: 64, clusterSize: 2 }, (k) => {
    const out = k.paramPointer("out");
    const box = k.shared(256, 128);
    k.store("shared", k.threadId.mad(4, box), [k.clusterRank.mad(64, k.threadId)]);
    k.syncCluster();
    const theirs = k.mapShared(box, k.u32(1).sub(k.clusterRank));
    const value = k.load("shared::cluster", k.threadId.mad(4, theirs));
    k.store("global", out.at(k.clusterRank.mad(64, k.threadId), 4), value);
    k.syncCluster();
  });
  return {
    name: kernel.name,
    prediction: "after the cluster's barrier a block reads what its peer stored",
    kernel,
    blocks: 2,
    prepare(memory) {
      const output = memory.output("out", 512);
      return { args: [output.address], output, expected: counting(128).map((i) => i ^ 64) };
    },
  };
}

/** Block 0 writes data and a flag, block 1 spins on the flag. */
function flag(fences: boolean): Litmus {
  const kernel = stageKernel(
    fences ? "flag_by_fences" : "flag_release_acquire",
    { threads: 32 },
    (k) => {
      const [data, out] = [k.paramPointer("data"), k.paramPointer("out")];
      const flagAt = k.paramPointer("flag");
      k.if(
        k.blockX.eq(0),
        () => {
          k.elected(() => {
            k.store("global", data, [k.u32(42)]);
            if (fences) k.fence("gpu");
            k.store("global", flagAt, [k.u32(1)], { order: fences ? "relaxed" : "release" });
          });
        },
        () => {
          k.elected(() => {
            const order = fences ? "relaxed" : "acquire";
            k.spinUntil(() => k.load("global", flagAt, 1, { order })[0].ne(0));
            if (fences) k.fence("gpu");
            k.store("global", out, k.load("global", data));
          });
        },
      );
    },
  );
  return {
    name: kernel.name,
    prediction: fences
      ? "fence, relaxed store, relaxed load, fence passes a message between blocks"
      : "st.release and ld.acquire at gpu scope pass a message between blocks",
    kernel,
    blocks: 2,
    prepare(memory) {
      const data = memory.inout("data", Uint32Array.of(0));
      const cell = memory.inout("flag", Uint32Array.of(0));
      const output = memory.output("out", 4);
      return { args: [data.address, output.address, cell.address], output, expected: [42] };
    },
  };
}

function tickets(): Litmus {
  const kernel = stageKernel("atomic_tickets", { threads: 64 }, (k) => {
    const [counter, out] = [k.paramPointer("counter"), k.paramPointer("out")];
    const ticket = k.atomicAdd("global", counter, k.u32(1));
    k.store("global", out.at(ticket, 4), [ticket]);
  });
  return {
    name: kernel.name,
    prediction: "every thread of two blocks draws a ticket of its own",
    kernel,
    blocks: 2,
    prepare(memory) {
      const counter = memory.inout("counter", Uint32Array.of(0));
      const output = memory.output("out", 512);
      return { args: [counter.address, output.address], output, expected: counting(128) };
    },
  };
}

/** All tests of order. */
export const orderTests = (): Litmus[] => [
  freshParity(),
  handOver("mbarrier"),
  handOver("named"),
  remoteArrive(),
  clusterBarrier(),
  flag(false),
  flag(true),
  tickets(),
];
