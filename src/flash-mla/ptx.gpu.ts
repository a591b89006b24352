/** @file Times decoding on a GPU: `npm run gpu`. Shapes are those of FlashMLA's benchmark; medians. */
import { randomFillSync } from "node:crypto";
import { ceilDiv, medianOf, Random } from "../base/index.ts";
import { openCuda, prepareStaged } from "../device/index.ts";
import { tensorOf } from "../tensor/index.ts";
import { getMlaMetadata } from "./metadata.ts";
import { combineLaunch, decodeLaunch } from "./ptx-arguments.ts";
import { mlaCombineKernel } from "./ptx-combine.ts";
import { mlaDecodeKernel } from "./ptx-decode.ts";

const runs = 20;
const [batch, dimQk, dimV, headsQ] = [128, 576, 512, 128];
const device = openCuda();
const decode = mlaDecodeKernel({ dimQk, dimV });
const combine = mlaCombineKernel(dimV);

/** One shape: every request has `keys` keys, pages lie in random order. */
function timeDecode(queries: number, keys: number): void {
  const rows = queries * headsQ;
  const pagesPerRequest = ceilDiv(keys, 64);
  const pages = batch * pagesPerRequest;
  const order = new Random(1).shuffle(Array.from({ length: pages }, (_, i) => i));
  const lengths = tensorOf("i32", [batch], new Int32Array(batch).fill(keys));
  // The metadata's own tiles take 128 rows, the kernel's 64.
  const parts = Math.max(1, Math.floor(device.multiprocessors / ceilDiv(rows, 64)));
  const metadata = getMlaMetadata(lengths, rows, 1, { threads: parts * ceilDiv(rows, 128) });
  const splits = metadata.numSplits.data[batch];
  const buffers = [] as ReturnType<typeof device.allocate>[];
  const place = (bytes: number, data?: ArrayBufferView) => {
    const buffer = device.allocate(bytes);
    buffers.push(buffer);
    if (data) device.upload(buffer, data);
    return buffer.address;
  };
  const random = (count: number) => {
    const codes = randomFillSync(new Uint16Array(count));
    // Magnitudes below 2^-1: neither large exponents nor NaN.
    for (let i = 0; i < count; i++) codes[i] = (codes[i] & 0x80ff) | 0x3e00;
    return codes;
  };
  const at = {
    q: place(batch * rows * dimQk * 2, random(batch * rows * dimQk)),
    cache: place(pages * 64 * dimQk * 2, random(pages * 64 * dimQk)),
    out: place(batch * rows * dimV * 2),
    lse: place(batch * rows * 4),
    blockTable: place(pages * 4, Int32Array.from(order)),
    cacheSeqlens: place(batch * 4, lengths.data),
    metadata: place(parts * 32, metadata.tileSchedulerMetadata.data),
    numSplits: place((batch + 1) * 4, metadata.numSplits.data),
    outParts: place(splits * rows * dimV * 4),
    lseParts: place(splits * rows * 4),
  };
  const sizes = { dimQk, dimV, batch, queries, headsQ, headsK: 1, pages, pagesPerRequest, parts };
  const call = { ...sizes, softmaxScale: 0.05, causal: true };
  const launches = [
    [decode, decodeLaunch(at, call)],
    [combine, combineLaunch(at, call)],
  ] as const;
  const ready = launches.map(([kernel, { grid, args }]) =>
    prepareStaged(device, kernel, grid, args),
  );
  const both = () => {
    for (const launch of ready) launch.run(device.stream.handle);
  };
  both();
  device.stream.synchronize();
  const us = medianOf(Array.from({ length: runs }, () => device.time(both)));
  for (const buffer of buffers) device.free(buffer);
  const flops = 2 * batch * rows * keys * (dimQk + dimV);
  const bytes = 2 * (batch * keys * dimQk + batch * rows * (dimQk + dimV));
  const numbers = [us.toFixed(1), (flops / us / 1e6).toFixed(0), (bytes / us / 1e3).toFixed(0)];
  console.log(`| ${queries} | ${keys} | ${numbers.join(" | ")} |`);
}

console.log(
  `\n${device.description}; decoding, batch ${batch}, ${headsQ} heads, medians of ${runs} runs\n`,
);
console.log("| query tokens | keys | us | TFLOPS | GB/s |\n| ---: | ---: | ---: | ---: | ---: |");
for (const keys of [4096, 8192, 16384]) for (const queries of [1, 2]) timeDecode(queries, keys);
device.close();
