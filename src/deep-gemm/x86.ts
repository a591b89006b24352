/**
 * @file The x86 rung: writes a record per group, then launches all their tasks at once. A call at
 * M = 1 is a few microseconds of work, so nothing is allocated here after the first calls.
 */
import { assert } from "../base/index.ts";
import { ArgumentBlock, type Device, type Isa } from "../device/index.ts";
import type { Tensor } from "../tensor/index.ts";
import {
  chunksOfRows,
  serialWorkMax,
  shapeTasks,
  type TaskShape,
  totalsBytesMax,
  workOf,
} from "./heuristics.ts";
import type { PackedMatrix } from "./pack.ts";
import type { GemmGroup } from "./types.ts";
import { emitProgram } from "./x86-program.ts";
import { dispatchWords, emitDispatcher, recordLength, recordWords } from "./x86-record.ts";
import { type KernelSpec, keptBytes } from "./x86-tile.ts";

const recordBytes = recordLength * 8;

/** A group as this rung takes it: part of a matrix, and what becomes of the product's rows. */
export interface PanelGroup extends GemmGroup {
  /** Panels of `b` to multiply, the first of which is D's first; by default all. */
  readonly firstPanel?: number;
  readonly panels?: number;
  /**
   * float32 `[m]`: D is one row, the sum over the rows of max(0, product) times the row's weight.
   * `m` is `rowsMax` at most.
   */
  readonly rowWeights?: Tensor<"f32">;
}

/** The kernels of a device. */
class Kernels {
  readonly device: Device;
  readonly parallel: number;
  readonly serial: number;
  private readonly isa: Isa;
  /** Entry addresses by activation and weight types, emitted on first use. */
  private readonly programs = new Map<string, number>();

  constructor(device: Device, isa: Isa) {
    assert(
      device.scratchBytes >= keptBytes + totalsBytesMax,
      () => `scratchBytes: got ${device.scratchBytes}, wanted ${keptBytes + totalsBytesMax}`,
    );
    this.device = device;
    this.isa = isa;
    const { code, entry, serialEntry } = emitDispatcher();
    const address = device.load(code, "deep-gemm dispatcher");
    this.parallel = address + entry;
    this.serial = address + serialEntry;
  }

  programOf(b: PackedMatrix, isSummed: boolean): number {
    const name = isSummed ? b.sumProgramName : b.programName;
    let address = this.programs.get(name);
    if (address === undefined) {
      const { activation, dtype: weights, columnScales } = b;
      const output = isSummed ? "reluSum" : "rows";
      const spec: KernelSpec = { isa: this.isa, activation, weights, columnScales, output };
      const { code, entry } = emitProgram(spec);
      address = this.device.load(code, `deep-gemm ${name}`) + entry;
      this.programs.set(name, address);
    }
    return address;
  }
}

/** The arguments of one launch: written once, then run any number of times. */
export class Launch {
  private readonly kernels: Kernels;
  private readonly header: ArgumentBlock;
  private readonly ends: ArgumentBlock;
  private readonly records: ArgumentBlock;
  private readonly shape: TaskShape = { rowsPerTask: 0, panelsPerTask: 0 };
  private kernel = 0;
  private tasks = 0;

  constructor(kernels: Kernels, groups: number) {
    const { device } = kernels;
    this.kernels = kernels;
    this.header = new ArgumentBlock(device, Object.keys(dispatchWords).length * 8);
    this.ends = new ArgumentBlock(device, groups * 4);
    this.records = new ArgumentBlock(device, groups * recordBytes);
  }

  write(groups: readonly PanelGroup[]): void {
    const { device } = this.kernels;
    this.ends.reserve(groups.length * 4);
    this.records.reserve(groups.length * recordBytes);
    let allPanels = 0;
    let work = 0;
    for (let i = 0; i < groups.length; i++) {
      const { m, b, panels = (b as PackedMatrix).panels } = groups[i];
      const { panelBytes } = b as PackedMatrix;
      allPanels += panels * chunksOfRows(m);
      work += workOf(m, panels, panelBytes);
    }
    const threads = work < serialWorkMax ? 1 : device.threads;
    let tasks = 0;
    let records = 0;
    for (let i = 0; i < groups.length; i++) {
      if (groups[i].m === 0 || groups[i].panels === 0) continue;
      tasks += this.writeRecord(records * recordBytes, groups[i], allPanels, threads);
      this.ends.setInt32(records++ * 4, tasks);
    }
    this.kernel = threads === 1 ? this.kernels.serial : this.kernels.parallel;
    this.tasks = threads === 1 ? Math.min(1, tasks) : tasks;
    this.header.setAddress(dispatchWords.ends * 8, this.ends.address);
    this.header.setAddress(dispatchWords.records * 8, this.records.address);
    this.header.setInt64(dispatchWords.tasks * 8, tasks);
  }

  run(): void {
    this.kernels.device.launch(this.kernel, this.header.address, this.tasks);
  }

  /** Runs it so often by the calling thread alone, without leaving machine code. */
  repeat(times: number): void {
    assert(this.tasks === 1, () => `tasks of a launch to repeat: got ${this.tasks}, wanted 1`);
    this.kernels.device.launch(this.kernel, this.header.address, times);
  }

  /** Writes the record of `group`, whose m is not 0, and returns its number of tasks. */
  private writeRecord(at: number, group: PanelGroup, allPanels: number, threads: number): number {
    const { records, shape } = this;
    const { a, m, d, firstPanel = 0, rowWeights } = group;
    const b = group.b as PackedMatrix;
    const { panels = b.panels } = group;
    const { panelBytes } = b;
    shapeTasks(shape, m, panels, panelBytes, allPanels, threads);
    const { rowsPerTask, panelsPerTask } = shape;
    const rowTasks = Math.ceil(m / rowsPerTask);
    records.setAddress(
      at + recordWords.program * 8,
      this.kernels.programOf(b, rowWeights !== undefined),
    );
    records.setAddress(at + recordWords.a * 8, a.values.address);
    records.setInt64(at + recordWords.aStride * 8, a.values.stride * (a.type === "f32" ? 4 : 2));
    records.setAddress(at + recordWords.b * 8, b.stream.address + firstPanel * panelBytes);
    records.setInt64(at + recordWords.panelBytes * 8, panelBytes);
    const scales = a.type === "f8e4m3" ? a.scales : undefined;
    records.setInt64(at + recordWords.aScales * 8, scales ? scales.address : 0);
    records.setInt64(at + recordWords.aScaleStride * 8, scales ? scales.stride * 4 : 0);
    const scaleBytes = b.scales ? b.scales.stride * 4 : 0;
    const bScales = b.scales ? b.scales.address + firstPanel * scaleBytes : 0;
    records.setInt64(at + recordWords.bScales * 8, bScales);
    records.setInt64(at + recordWords.bScaleStride * 8, scaleBytes);
    records.setAddress(at + recordWords.widths * 8, b.widths.address + firstPanel * 4);
    records.setAddress(at + recordWords.d * 8, d.address);
    records.setInt64(at + recordWords.dStride * 8, d.stride * 4);
    records.setInt64(at + recordWords.m * 8, m);
    records.setInt64(at + recordWords.rowsPerTask * 8, rowsPerTask);
    records.setInt64(at + recordWords.panels * 8, panels);
    records.setInt64(at + recordWords.panelsPerTask * 8, panelsPerTask);
    records.setInt64(at + recordWords.rowTasks * 8, rowTasks);
    records.setInt64(at + recordWords.k * 8, b.k);
    records.setInt64(at + recordWords.accumulate * 8, group.accumulate ? 1 : 0);
    records.setInt64(at + recordWords.rowWeights * 8, rowWeights ? rowWeights.address : 0);
    return rowTasks * Math.ceil(panels / panelsPerTask);
  }
}

/** What this room keeps for a device: the kernels, and arguments that calls share. */
interface Launcher {
  readonly kernels: Kernels;
  readonly shared: Launch;
}

const launchers = new WeakMap<Device, Launcher>();

function launcherOf(device: Device, isa: Isa): Launcher {
  let launcher = launchers.get(device);
  if (launcher === undefined) {
    const kernels = new Kernels(device, isa);
    launcher = { kernels, shared: new Launch(kernels, 64) };
    launchers.set(device, launcher);
  }
  return launcher;
}

/** Computes `groups`, which have passed the door's checks, by machine code for `isa`. */
export function launchGemm(device: Device, isa: Isa, groups: readonly PanelGroup[]): void {
  const { shared } = launcherOf(device, isa);
  shared.write(groups);
  shared.run();
}

/** The same, as arguments of its own that can be run again and again. */
export function prepareLaunch(device: Device, isa: Isa, groups: readonly PanelGroup[]): Launch {
  const launch = new Launch(launcherOf(device, isa).kernels, groups.length);
  launch.write(groups);
  return launch;
}
