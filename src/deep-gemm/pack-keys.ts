/**
 * @file Packs rows of e4m3 codes that lie here and there, each with a scale, as weights whose
 * columns are scaled. The memory is kept for the next call.
 */
import type { Device } from "../device/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { panelColumns } from "./layout.ts";
import { PackedMatrix, packColumn, panelOf } from "./pack.ts";
import { packPanels } from "./x86-pack.ts";

/** 64 keys, or fewer at the end. */
export interface KeyPanel {
  /** Element of the codes' data at which the first key begins. */
  readonly codes: number;
  /** Element of the scales at which its scale lies; the others follow. */
  readonly scales: number;
  /** Keys; those behind are left as they were and mean nothing. */
  readonly width: number;
}

const kept = new WeakMap<Device, Map<number, PackedMatrix>>();

/**
 * The keys of `panels`, packed; undefined if there are none. Codes of a panel follow each other
 * `codes.stride` apart. The result is good until the next call with the same depth.
 */
export function packKeys(
  device: Device,
  codes: Tensor<"f8e4m3">,
  scales: Float32Array,
  panels: readonly KeyPanel[],
): PackedMatrix | undefined {
  if (panels.length === 0) return undefined;
  const k = codes.shape[1];
  let packers = kept.get(device);
  if (!packers) {
    packers = new Map();
    kept.set(device, packers);
  }
  let packed = packers.get(k);
  if (!packed || packed.panels < panels.length) {
    const parts = [Math.max(panels.length, 2 * (packed?.panels ?? 0)) * panelColumns];
    const shape = { activation: "f8e4m3", dtype: "f8e4m3", k, parts, columnScales: true } as const;
    packed = new PackedMatrix(device, shape);
    packers.set(k, packed);
  }
  const whole = panels.at(-1)!.width === panelColumns ? panels.length : panels.length - 1;
  const place = { address: packed.stream.address, panelBytes: packed.panelBytes };
  const done = packPanels(device, codes, whole, place, (panel) => panels[panel].codes);
  for (let panel = 0; panel < panels.length; panel++) {
    const { codes: start, scales: firstScale, width } = panels[panel];
    const first = panel < whole ? done : 0;
    for (let column = 0; column < width && first < k; column++) {
      const from = start + column * codes.stride;
      packColumn(
        "f8e4m3",
        codes.data.subarray(from, from + k),
        panelOf(packed, panel),
        column,
        first,
      );
    }
    const to = panel * packed.scales!.stride;
    packed.scales!.data.set(scales.subarray(firstScale, firstScale + width), to);
  }
  return packed;
}
