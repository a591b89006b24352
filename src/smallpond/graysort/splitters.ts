/** @file Where to cut the range of keys, from a sample of them. */
import { open } from "node:fs/promises";
import { bytesOf, fileError, type Segment } from "./blocks.ts";
import { prefixAt, recordBytes } from "./record.ts";

/** Places that are read, evenly spread, and records at each. */
const places = 2048;
const recordsAtPlace = 40;

/**
 * The prefixes of about 82,000 records (all, where there are fewer), ascending: at 2,048 places spread
 * evenly over `segments`, 40 records each.
 */
export async function samplePrefixes(segments: readonly Segment[]): Promise<BigUint64Array> {
  const total = bytesOf(segments) / recordBytes;
  const step = Math.max(recordsAtPlace, Math.floor(total / places));
  const prefixes: bigint[] = [];
  const buffer = Buffer.alloc(recordsAtPlace * recordBytes);
  for (const { path, offset, bytes } of segments) {
    const file = await open(path).catch((cause) => {
      throw fileError(`input ${path}`, cause);
    });
    try {
      for (let at = 0; at < bytes; at += step * recordBytes) {
        const wanted = Math.min(buffer.length, bytes - at);
        const { bytesRead } = await file.read(buffer, 0, wanted, offset + at);
        for (let i = 0; i + recordBytes <= bytesRead; i += recordBytes) {
          prefixes.push(prefixAt(buffer, i));
        }
      }
    } finally {
      await file.close();
    }
  }
  return BigUint64Array.from(prefixes).sort();
}

/**
 * `ranges` - 1 splitters that cut the sample into equal shares: range i holds
 * splitters[i - 1] <= prefix < splitters[i]. A prefix so frequent that several cuts fall on it gets a
 * range for itself: the second cut moves behind it.
 */
export function splittersOf(sample: BigUint64Array, ranges: number): BigUint64Array {
  const splitters = new BigUint64Array(ranges - 1);
  for (let i = 0; i < splitters.length; i++) {
    const cut = sample[Math.floor(((i + 1) * sample.length) / ranges)] ?? 0n;
    const before = i > 0 ? splitters[i - 1] : undefined;
    const taken = before !== undefined && cut <= before;
    splitters[i] = taken ? after(before, cut) : cut;
  }
  return splitters;
}

function after(before: bigint, cut: bigint): bigint {
  return before === cut && cut < 2n ** 64n - 1n ? cut + 1n : before;
}
