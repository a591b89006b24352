/**
 * @file How a product is cut on a Hopper GPU: pure arithmetic over the shape and the card, no
 * autotuning, so that the same call always runs the same kernel.
 *
 * A launch takes as many waves as the busiest multiprocessor has tiles. Each k block of a tile takes
 * the longer of its arithmetic and its traffic from the second-level cache, where a cluster that
 * shares one operand reads it once for both. Blocks that are no powers of two count: 112 columns
 * make 128 of 132 multiprocessors work where 128 make 112.
 */
import { ceilDiv } from "../base/index.ts";

/** What matters of a card. */
export interface CardModel {
  readonly numSms: number;
  /** Multiply-adds of a multiprocessor in a clock: FP8 4096, bf16 2048 (H100, H800, H200). */
  readonly macsPerClock: number;
  /** Bytes that reach a multiprocessor in a clock when all of them read. */
  readonly bytesPerClock: number;
}

/** H800, H100 SXM: 132 multiprocessors, dense FP8; the cache rate is an estimate, not a measurement. */
export const hopperFp8Card: CardModel = { numSms: 132, macsPerClock: 4096, bytesPerClock: 32 };

/** How a product is cut. */
export interface GemmPlan {
  readonly blockM: 64 | 128;
  readonly blockN: number;
  readonly stages: number;
  readonly multicast: "none" | "a" | "b";
  readonly rasterGroup: number;
  /** Blocks of the grid, clusters being whole. */
  readonly blocks: number;
}

/** Shared memory that a block may use. */
const sharedMax = 232448;
/** Bytes of k in a stage. */
const stageK = 128;

/** Stages that fit beside the output tile: at most 8, since more hides nothing. */
export function stagesThatFit(blockM: number, blockN: number): number {
  const stage = blockM * stageK + blockN * stageK + blockM * 4;
  const rest = sharedMax - blockM * blockN * 2 - 8 * 16 - 1024;
  return Math.min(8, Math.floor(rest / stage));
}

/** Clocks of one k block of one tile. */
function clocksOf(card: CardModel, blockM: number, blockN: number, multicast: string): number {
  const math = (blockM * blockN * stageK) / card.macsPerClock;
  const a = multicast === "a" ? blockM / 2 : blockM;
  const b = multicast === "b" ? blockN / 2 : blockN;
  return Math.max(math, ((a + b) * stageK) / card.bytesPerClock);
}

/** The cheapest plan; of equals the one with fewer bytes, then the wider one. */
export function planGemm(
  shape: { m: number; n: number },
  card: CardModel = hopperFp8Card,
): GemmPlan {
  const { m, n } = shape;
  let best: { plan: GemmPlan; cost: number; bytes: number } | undefined;
  for (const blockM of [64, 128] as const) {
    if (blockM === 128 && m <= 64) continue;
    for (let blockN = 16; blockN <= 192; blockN += 16) {
      const [tilesM, tilesN] = [ceilDiv(m, blockM), ceilDiv(n, blockN)];
      const tiles = tilesM * tilesN;
      const waves = ceilDiv(tiles, card.numSms);
      const stages = stagesThatFit(blockM, blockN);
      for (const multicast of ["none", "a", "b"] as const) {
        // A lone wave has no second-level traffic worth sharing; an odd axis would waste a tile.
        const axis = multicast === "a" ? tilesN : tilesM;
        if (multicast !== "none" && (waves < 2 || axis % 2 !== 0)) continue;
        const cost = waves * clocksOf(card, blockM, blockN, multicast);
        const bytes = tiles * (blockM + blockN);
        const better = !best || cost < best.cost || (cost === best.cost && bytes < best.bytes);
        if (!better || stages < 3) continue;
        const blocks = Math.min(card.numSms, tiles) & (multicast === "none" ? -1 : -2);
        best = {
          plan: {
            blockM,
            blockN,
            stages,
            multicast,
            rasterGroup: rasterOf(blockM, blockN),
            blocks,
          },
          cost,
          bytes,
        };
      }
    }
  }
  return best!.plan;
}

/** Rows of tiles in a band: 8 or 16, whichever touches fewer bytes of the two operands at a time. */
function rasterOf(blockM: number, blockN: number): number {
  const touched = (rows: number) => rows * blockM + Math.ceil(132 / rows) * blockN;
  return touched(8) <= touched(16) ? 8 : 16;
}
