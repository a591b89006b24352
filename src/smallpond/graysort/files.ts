/** @file Whole files: generate them, and validate what a sort has made. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { BaleenError } from "../../base/index.ts";
import { openDevice } from "../../device/index.ts";
import { BlockWriter, blockBytes, readBlocks, type Segment, wholeFile } from "./blocks.ts";
import { readManifest } from "./job.ts";
import { emptyTally, openKernels, type Tally } from "./kernels.ts";
import { recordBytes, stateAfter } from "./record.ts";

/** How keys are spread: evenly, crowded at the low end, or over a thousand values only. */
export type KeySpread = "uniform" | "skewed" | "few";

/** What to generate. */
export interface GenerateOptions {
  readonly path: string;
  readonly records: number;
  /** Row of the first record; default 0. Files of rows that follow each other make one data set. */
  readonly firstRow?: bigint | undefined;
  /** Default uniform, which are the sort benchmark's records; the others are this project's own. */
  readonly keys?: KeySpread | undefined;
}

/**
 * Writes the file. `skewed` raises the key, as a fraction of the key space, to the fourth power: half
 * of the records lie in the lowest sixteenth. `few` draws one of 1,000 keys, the first ones more
 * often (the square of a uniform fraction).
 */
export async function generateFile(options: GenerateOptions): Promise<void> {
  const { path, records, firstRow = 0n, keys = "uniform" } = options;
  const device = openDevice({ threads: 1 });
  const kernels = openKernels(device);
  const spread = spreads[keys]();
  const writer = await BlockWriter.open(path);
  try {
    const blockRecords = blockBytes / recordBytes;
    for (let row = 0; row < records; row += blockRecords) {
      const count = Math.min(blockRecords, records - row);
      await writer.write(count * recordBytes, (buffer) => {
        kernels.generate(buffer, firstRow + BigInt(row));
        spread(buffer);
      });
    }
    await writer.finish();
  } catch (error) {
    await writer.abandon();
    throw error;
  } finally {
    device.close();
  }
}

const spreads: Record<KeySpread, () => (records: Uint8Array) => void> = {
  uniform: () => () => {},
  skewed: () =>
    eachKey((view, at, fraction) => {
      const prefix = Math.min(fraction ** 4 * 2 ** 64, 2 ** 64 - 2 ** 11);
      view.setBigUint64(at, BigInt(Math.floor(prefix)));
    }),
  few: () => {
    const values = Array.from({ length: 1000 }, (_, i) => stateAfter(BigInt(i + 1)));
    return eachKey((view, at, fraction) => {
      const value = values[Math.floor(fraction ** 2 * 1000)];
      view.setBigUint64(at, value >> 64n);
      view.setUint16(at + 8, Number((value >> 48n) & 0xffffn));
    });
  },
};

/** Rewrites each key from the fraction of the key space at which it lay. */
function eachKey(
  rewrite: (view: DataView, at: number, fraction: number) => void,
): (records: Uint8Array) => void {
  return (records) => {
    const view = new DataView(records.buffer, records.byteOffset, records.byteLength);
    for (let at = 0; at < records.length; at += recordBytes) {
      rewrite(view, at, (view.getUint32(at) + view.getUint32(at + 4) / 2 ** 32) / 2 ** 32);
    }
  };
}

/**
 * Passes over the records at `paths` as if they were one file: their count, order, duplicates and the
 * sum of their CRC-32. A path is a file, or the folder of a sort, whose manifest names its files.
 */
export async function tallyFiles(paths: readonly string[], signal?: AbortSignal): Promise<Tally> {
  const segments = (await Promise.all(paths.map(segmentsAt))).flat();
  const device = openDevice({ threads: 1 });
  const kernels = openKernels(device);
  const tally = emptyTally();
  try {
    for await (const block of readBlocks(segments, signal)) kernels.check(block, tally);
    return tally;
  } finally {
    device.close();
  }
}

async function segmentsAt(path: string): Promise<Segment[]> {
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder) return [await wholeFile(path)];
  const manifest = await readManifest(path);
  if (!manifest) {
    throw new BaleenError(
      "not-published",
      `folder ${path} has no _manifest.json: the sort has not finished; run it again.`,
    );
  }
  return Promise.all(
    manifest.parts.map(async ({ name, bytes }) => {
      const segment = await wholeFile(join(path, name));
      if (segment.bytes === bytes) return segment;
      throw new BaleenError(
        "part-changed",
        `part ${segment.path} has ${segment.bytes} bytes, and the manifest says ${bytes}: sort again.`,
      );
    }),
  );
}
