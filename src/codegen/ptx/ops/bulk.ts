/**
 * @file Asynchronous copies: tensors by the tensor memory accelerator, contiguous bytes in bulk,
 * stores into a peer's memory, and the older `cp.async`. One thread issues, a copy engine does it
 * later; an `mbarrier` (into shared memory) or a committed group (out of it) tells when.
 */
import type { AsyncOperation, TensorView } from "../emulator/machine.ts";
import type { Region } from "../emulator/shadow.ts";
import type { BulkQueue, Warp } from "../emulator/warp.ts";
import { elementBytes, type MapBox } from "../ir.ts";
import { swizzleAddress } from "../layout.ts";
import { mbarrierAt } from "./barrier.ts";
import { type Op, type Step, signature, vector } from "./op.ts";

type Tensor = TensorView & MapBox;

/** Bytes of one box. */
function boxBytes({ box, type }: MapBox): number {
  return box.reduce((product, extent) => product * extent, 1) * elementBytes[type];
}

/**
 * Calls `visit` for every word of a box: its place behind `base` in shared memory (swizzled) and
 * its address in the tensor, undefined where the box hangs over an edge. Words are 4 bytes; the
 * innermost extent of a tensor ends on a word in all that is used here.
 */
function eachBoxWord(
  tensor: Tensor,
  start: readonly number[],
  base: number,
  visit: (shared: number, address: number | undefined, bytesInside: number) => void,
): void {
  const { box, dims, strideBytes, swizzle, type } = tensor;
  const bytes = elementBytes[type];
  const rowBytes = box[0] * bytes;
  const rows = box.slice(1).reduce((product, extent) => product * extent, 1);
  for (let row = 0; row < rows; row++) {
    let rest = row;
    let address = tensor.address;
    let inside = true;
    for (let d = 1; d < box.length; d++) {
      const at = start[d] + (rest % box[d]);
      rest = Math.floor(rest / box[d]);
      inside &&= at >= 0 && at < dims[d];
      address += at * strideBytes[d - 1];
    }
    for (let byte = 0; byte < rowBytes; byte += 4) {
      const place = swizzleAddress(base + row * rowBytes + byte, swizzle);
      const first = start[0] * bytes + byte;
      const left = Math.min(4, dims[0] * bytes - first);
      visit(place, inside && first >= 0 && left > 0 ? address + first : undefined, left);
    }
  }
}

/** Coordinates are signed. */
function coordinates(step: Step, warp: Warp, from: number, rank: number, l: number): number[] {
  return step.s.slice(from, from + rank).map((at) => warp.s32[at + l]);
}

function checkBox(warp: Warp, tensor: Tensor, address: number): void {
  const { swizzle, box, type } = tensor;
  const inner = box[0] * elementBytes[type];
  if (inner % 16 !== 0)
    warp.fault("bulk-misuse", `boxes of ${inner} bytes a row, no multiple of 16`);
  if (swizzle !== 0 && inner > swizzle) {
    warp.fault("bulk-misuse", `boxes of ${inner} bytes a row, swizzled over ${swizzle}`);
  }
  const aligned = swizzle === 128 ? 1024 : swizzle === 0 ? 128 : swizzle * 8;
  if ((address & 0xffffff) % aligned !== 0) {
    warp.fault("misaligned", `a box at shared address ${address}, not a multiple of ${aligned}`);
  }
}

const registers = (names: readonly string[]): string => `{${names.join(", ")}}`;

/** Fetches a tensor map, so that its first use is fast. */
export const PrefetchMap: Op<"PrefetchMap"> = {
  verify: signature("<l"),
  emit(node, e) {
    e.line(`prefetch.tensormap [${e.name(node.src[0])}];`);
  },
  exec() {},
};

/** Bits of a cache policy made by `createpolicy.fractional`, as CUTLASS writes them down. */
const policies = { evict_first: "0x12F0000000000000", evict_last: "0x14F0000000000000" } as const;

/**
 * Copies a box into shared memory; operands `map, address, mbarrier, coordinates...`, then the mask
 * of blocks where `multicast`. Bytes outside the tensor arrive as zeros, and count.
 */
export const TmaLoad: Op<"TmaLoad"> = {
  verify: signature((attr) => `<luu${"u".repeat(attr.rank)}${attr.multicast ? "u" : ""}`),
  emit(node, e) {
    const { rank, multicast, hint } = node.attr;
    const [map, address, barrier, ...rest] = node.src.map((r) => e.name(r));
    const at = registers(rest.slice(0, rank));
    let name = `cp.async.bulk.tensor.${rank}d.shared::cluster.global.mbarrier::complete_tx::bytes`;
    let tail = "";
    if (multicast) {
      const mask = e.fresh("b32").replace("%x", "%m");
      e.line("{");
      e.line(`.reg .b16 ${mask};`);
      e.line(`cvt.u16.u32 ${mask}, ${rest[rank]};`);
      name += ".multicast::cluster";
      tail += `, ${mask}`;
    }
    if (hint !== "none") {
      name += ".L2::cache_hint";
      const policy = e.fresh("b64");
      e.line(`mov.b64 ${policy}, ${policies[hint]};`);
      tail += `, ${policy}`;
    }
    e.line(`${name} [${address}], [${map}, ${at}], [${barrier}]${tail};`);
    if (multicast) e.line("}");
  },
  exec(step, warp) {
    const { rank, multicast } = step.attr;
    const l = warp.singleLane("cp.async.bulk.tensor");
    const tensor = warp.machine.tensor(warp.u32[step.s[0] + l]);
    const address = warp.u32[step.s[1] + l];
    const barrierAddress = warp.u32[step.s[2] + l];
    checkBox(warp, tensor, address);
    const start = coordinates(step as Step, warp, 3, rank, l);
    const mask = multicast ? warp.u32[step.s[3 + rank] + l] : 0;
    const windows = multicast
      ? warp.cta.cluster.ctas.map((_, rank) => rank).filter((rank) => (mask >>> rank) & 1)
      : [-1];
    const bytes = boxBytes(tensor);
    const targets = windows.map((rank) => (rank + 1) << 24);
    const operation = warp.machine.submit(warp, [
      (self) => {
        for (const window of targets) {
          const { region, cta } = warp.sharedAt(window | address, bytes);
          fillBox(warp, self, tensor, start, region, address);
          const barrier = cta.mbarriers.get(warp.sharedAt(window | barrierAddress, 8).offset);
          if (!barrier)
            return warp.fault("mbarrier-misuse", "the copy's mbarrier is not initialised");
          barrier.deliver(self, bytes);
        }
      },
    ]);
    for (const window of targets) {
      mbarrierAt(warp, window | barrierAddress).checkVisible(operation, window !== 0);
      const { region } = warp.sharedAt(window | address, bytes);
      poisonBytes(operation, region, (address & 0xffffff) - region.base, bytes);
    }
  },
};

/** What is being copied to may not be looked at: the write is noted at once, with NaN bytes. */
function poisonBytes(
  operation: AsyncOperation,
  region: Region,
  offset: number,
  bytes: number,
): void {
  for (let word = offset >>> 2; word < (offset + bytes) >>> 2; word++) {
    region.noteWrite(operation, word, false);
  }
  region.u8.fill(0xff, offset, offset + bytes);
}

function fillBox(
  warp: Warp,
  self: AsyncOperation,
  tensor: Tensor,
  start: readonly number[],
  region: Region,
  address: number,
): void {
  eachBoxWord(tensor, start, address & 0xffffff, (place, from, inside) => {
    let value = 0;
    if (from !== undefined) {
      const source = warp.globalAt(from, 0, inside);
      source.region.noteRead(self, source.offset >>> 2, false);
      const { u8 } = source.region;
      for (let i = 0; i < inside; i++) value |= u8[source.offset + i] << (8 * i);
    }
    region.u32[(place - region.base) >>> 2] = value;
  });
}

function queueOf(warp: Warp, lane: number): BulkQueue {
  let queue = warp.bulk.get(lane);
  if (!queue) {
    queue = { open: [], groups: [] };
    warp.bulk.set(lane, queue);
  }
  return queue;
}

/**
 * Copies a box out of shared memory; operands `map, address, coordinates...`. What lies outside the
 * tensor is dropped. `reduce`: adds to what is there (float32 or bf16), one element at a time.
 */
export const TmaStore: Op<"TmaStore"> = {
  verify: signature((attr) => `<lu${"u".repeat(attr.rank)}`),
  emit(node, e) {
    const { rank, reduce } = node.attr;
    const [map, address, ...rest] = node.src.map((r) => e.name(r));
    const name = reduce ? "cp.reduce.async.bulk.tensor" : "cp.async.bulk.tensor";
    const how = `global.shared::cta${reduce ? ".add" : ""}.tile.bulk_group`;
    e.line(`${name}.${rank}d.${how} [${map}, ${registers(rest)}], [${address}];`);
  },
  exec(step, warp) {
    const { rank, reduce } = step.attr;
    const l = warp.singleLane("cp.async.bulk.tensor");
    const tensor = warp.machine.tensor(warp.u32[step.s[0] + l]);
    const address = warp.u32[step.s[1] + l];
    checkBox(warp, tensor, address);
    const start = coordinates(step as Step, warp, 2, rank, l);
    const { region } = warp.sharedAt(address, boxBytes(tensor));
    const words: [number, number, number][] = [];
    const operation = warp.machine.submit(warp, [
      (self) => {
        eachBoxWord(tensor, start, address, (place, to, inside) => {
          const word = (place - region.base) >>> 2;
          region.noteRead(self, word, false);
          if (to !== undefined) words.push([to, region.u32[word], inside]);
        });
        self.clock[self.agent] = warp.machine.nextEpoch(self.agent);
      },
      (self) => {
        for (const [to, value, inside] of words) writeGlobal(warp, self, to, value, inside, reduce);
      },
    ]);
    queueOf(warp, l).open.push(operation);
  },
};

const cell = new Float32Array(2);
const bits = new Uint32Array(cell.buffer);

function writeGlobal(
  warp: Warp,
  self: AsyncOperation,
  to: number,
  value: number,
  bytes: number,
  reduce: boolean,
): void {
  const { region, offset } = warp.globalAt(to, 0, bytes);
  region.noteWrite(self, offset >>> 2, reduce);
  if (reduce) {
    bits[0] = region.u32[offset >>> 2];
    bits[1] = value;
    region.f32[offset >>> 2] = cell[0] + cell[1];
  } else for (let i = 0; i < bytes; i++) region.u8[offset + i] = value >>> (8 * i);
}

/**
 * Copies contiguous bytes: `load` global to shared (operands `shared, global, bytes, mbarrier`),
 * `store` shared to global (`global, shared, bytes`), `peer` shared to a peer's shared memory
 * (`mapped address, shared, bytes, mapped mbarrier`).
 */
export const BulkCopy: Op<"BulkCopy"> = {
  verify: signature(({ direction }) => {
    return direction === "load" ? "<uluu" : direction === "store" ? "<luu" : "<uuuu";
  }),
  emit(node, e) {
    const [to, from, bytes, barrier] = node.src.map((r) => e.name(r));
    const { direction } = node.attr;
    const name = "cp.async.bulk.";
    if (direction === "store") {
      return e.line(`${name}global.shared::cta.bulk_group [${to}], [${from}], ${bytes};`);
    }
    const source = direction === "load" ? "global" : "shared::cta";
    const how = `shared::cluster.${source}.mbarrier::complete_tx::bytes`;
    e.line(`${name}${how} [${to}], [${from}], ${bytes}, [${barrier}];`);
  },
  exec(step, warp) {
    const l = warp.singleLane("cp.async.bulk");
    const at = (i: number) => warp.u32[step.s[i] + l];
    const bytes = at(2);
    const { direction } = step.attr;
    const source =
      direction === "load"
        ? warp.globalAt(at(1), warp.u32[step.s[1] + 32 + l], bytes)
        : warp.sharedAt(at(1), bytes);
    const target =
      direction === "store"
        ? warp.globalAt(at(0), warp.u32[step.s[0] + 32 + l], bytes)
        : warp.sharedAt(at(0), bytes);
    if (bytes % 16 || source.offset % 16 || target.offset % 16) {
      warp.fault("misaligned", `a bulk copy of ${bytes} bytes, not all multiples of 16`);
    }
    let data: Uint8Array;
    const read = (self: AsyncOperation): void => {
      for (let i = 0; i < bytes; i += 4)
        source.region.noteRead(self, (source.offset + i) >>> 2, false);
      data = source.region.u8.slice(source.offset, source.offset + bytes);
    };
    if (direction === "store") {
      const operation = warp.machine.submit(warp, [
        (self) => {
          read(self);
          self.clock[self.agent] = warp.machine.nextEpoch(self.agent);
        },
        (self) => {
          for (let i = 0; i < bytes; i += 4)
            target.region.noteWrite(self, (target.offset + i) >>> 2, false);
          target.region.u8.set(data, target.offset);
        },
      ]);
      return void queueOf(warp, l).open.push(operation);
    }
    const barrier = mbarrierAt(warp, at(3));
    const operation = warp.machine.submit(warp, [
      (self) => {
        read(self);
        warp.sharedAt(at(0), bytes);
        target.region.u8.set(data, target.offset);
        barrier.deliver(self, bytes);
      },
    ]);
    barrier.checkVisible(operation, direction === "peer");
    poisonBytes(operation, target.region, target.offset, bytes);
  },
};

/** Closes the group of bulk stores that this thread has issued since the last one. */
export const BulkCommit: Op<"BulkCommit"> = {
  verify: signature("<"),
  emit: (_, e) => e.line("cp.async.bulk.commit_group;"),
  exec(_, warp) {
    warp.each((l) => {
      const queue = queueOf(warp, l);
      if (queue.open.length > 0) queue.groups.push(queue.open);
      queue.open = [];
    });
  },
};

/** Waits until at most `pending` groups are not done, or (`readOnly`) not read. */
export const BulkWait: Op<"BulkWait"> = {
  verify: signature("<"),
  emit(node, e) {
    const { pending, readOnly } = node.attr;
    e.line(`cp.async.bulk.wait_group${readOnly ? ".read" : ""} ${pending};`);
  },
  exec(step, warp) {
    const { pending, readOnly } = step.attr;
    const wanted: AsyncOperation[] = [];
    warp.each((l) => {
      const queue = queueOf(warp, l);
      wanted.push(...queue.groups.splice(0, Math.max(0, queue.groups.length - pending)).flat());
    });
    warp.waitFor(
      () => wanted.every(({ done, stage }) => done || (readOnly && stage > 0)),
      () => {
        for (const { agent, clock } of wanted) {
          // After the first stage the clock is that of the write; the read was one earlier.
          const known = readOnly ? clock[agent] - 1 : clock[agent];
          warp.clock[agent] = Math.max(warp.clock[agent], known);
        }
      },
      () => `${wanted.length} bulk stores to ${readOnly ? "read shared memory" : "complete"}`,
    );
  },
};

/** Writes words into a peer's shared memory; operands `mapped address, mapped mbarrier, values...`. */
export const StoreAsync: Op<"StoreAsync"> = {
  verify: signature((attr) => `<uu${"x".repeat(attr.width)}`),
  version: () => 81,
  emit(node, e) {
    const { width } = node.attr;
    const [address, barrier, ...values] = node.src.map((r) => e.name(r));
    const type = width === 1 ? "b32" : `v${width}.b32`;
    const name = `st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.${type}`;
    e.line(`${name} [${address}], ${vector(values)}, [${barrier}];`);
  },
  exec(step, warp) {
    const { width } = step.attr;
    warp.each((l) => {
      const bytes = 4 * width;
      const { region, offset } = warp.sharedAt(warp.u32[step.s[0] + l], bytes);
      const barrier = mbarrierAt(warp, warp.u32[step.s[1] + l]);
      const values = step.s.slice(2).map((at) => warp.u32[at + l]);
      const address = warp.u32[step.s[0] + l];
      const operation = warp.machine.submit(
        warp,
        [
          (self) => {
            warp.sharedAt(address, bytes);
            region.u32.set(values, offset >>> 2);
            barrier.deliver(self, bytes);
          },
        ],
        "generic",
      );
      barrier.checkVisible(operation, true);
      poisonBytes(operation, region, offset, bytes);
    });
  },
};

/** Copies 4, 8 or 16 bytes a lane from global to shared memory; operands `shared, global`. */
export const CpAsync: Op<"CpAsync"> = {
  verify: signature("<ul"),
  emit(node, e) {
    const { bytes } = node.attr;
    const [to, from] = node.src.map((r) => e.name(r));
    e.line(`cp.async.${bytes === 16 ? "cg" : "ca"}.shared.global [${to}], [${from}], ${bytes};`);
  },
  exec(step, warp) {
    const { bytes } = step.attr;
    warp.each((l) => {
      const target = warp.sharedAt(warp.u32[step.s[0] + l], bytes);
      const source = warp.globalAt(warp.u32[step.s[1] + l], warp.u32[step.s[1] + 32 + l], bytes);
      const operation = warp.machine.submit(
        warp,
        [
          (self) => {
            for (let i = 0; i < bytes; i += 4) {
              const word = (source.offset + i) >>> 2;
              source.region.noteRead(self, word, false);
              target.region.u32[(target.offset + i) >>> 2] = source.region.u32[word];
            }
          },
        ],
        "generic",
      );
      poisonBytes(operation, target.region, target.offset, bytes);
      warp.plainCopies.open.push(operation);
    });
  },
};

/** Closes a group of `cp.async`. */
export const CpAsyncCommit: Op<"CpAsyncCommit"> = {
  verify: signature("<"),
  emit: (_, e) => e.line("cp.async.commit_group;"),
  exec(_, warp) {
    warp.plainCopies.groups.push(warp.plainCopies.open);
    warp.plainCopies.open = [];
  },
};

/** Waits until at most `pending` groups of `cp.async` are in flight. */
export const CpAsyncWait: Op<"CpAsyncWait"> = {
  verify: signature("<"),
  emit: (node, e) => e.line(`cp.async.wait_group ${node.attr.pending};`),
  exec(step, warp) {
    const { groups } = warp.plainCopies;
    const wanted = groups.splice(0, Math.max(0, groups.length - step.attr.pending)).flat();
    warp.waitFor(
      () => wanted.every(({ done }) => done),
      () => {
        for (const { agent, clock } of wanted)
          warp.clock[agent] = Math.max(warp.clock[agent], clock[agent]);
      },
      () => `${wanted.length} copies`,
    );
  },
};
