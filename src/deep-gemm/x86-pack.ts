/**
 * @file Packs whole panels by machine code: 64 rows of a row-major matrix to the order of the
 * stream. In units of 4 bytes (a float32, a pair of bf16) or 2 (a pair of codes) packing is a
 * transposition. Rows are loaded 16 bytes at a time, each into one lane of a register, so that
 * unpacking inside lanes, two levels for units of 4 bytes and three for 2, leaves one unit of every
 * row in a register. A row's 64 bytes are read close together: rows whose stride is a power of two
 * share one set of the first-level cache, so a line does not stay there for long.
 */
import {
  Assembler,
  type Gpr,
  hasAvx512,
  type Isa,
  mem,
  r8,
  r9,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  type Vec,
  ymm,
  zmm,
} from "../codegen/index.ts";
import { ArgumentBlock, type Device } from "../device/index.ts";
import { bytesPerElement, type Tensor } from "../tensor/index.ts";
import { kernelOf } from "./kernels.ts";
import { type PackedType, panelColumns } from "./layout.ts";

/** Bytes of a row that are packed at a time. */
const chunkBytes = 64;

/** Places of the arguments, in 64-bit words; strides in bytes. */
const packWords = {
  /** Address of the 64-bit addresses of each panel's first row. */
  sources: 0,
  sourceStride: 1,
  /** The first panel. */
  to: 2,
  panelBytes: 3,
  /** Chunks of 64 bytes in a row; at least 1. */
  chunks: 4,
} as const;

/** Where panels go. */
export interface PanelPlace {
  /** Of the first panel. */
  readonly address: number;
  readonly panelBytes: number;
}

/** Sources of the panels, for each device. */
const sourcesOf = new WeakMap<Device, ArgumentBlock>();

/**
 * Packs `panels` times 64 rows of `weight` `[n, k]` one after the other to `place`, as far as whole
 * chunks of 64 bytes reach; returns the k up to which it did, 0 on the reference rung. Panel i
 * begins at element `startOf(i)`, by default that of row 64 i.
 */
export function packPanels(
  device: Device,
  weight: Tensor<PackedType>,
  panels: number,
  place: PanelPlace,
  startOf: (panel: number) => number = (panel) => panel * panelColumns * weight.stride,
): number {
  const bytes = bytesPerElement[weight.dtype];
  const chunks = Math.floor((weight.shape[1] * bytes) / chunkBytes);
  if (device.isa === undefined || panels === 0 || chunks === 0) return 0;
  let sources = sourcesOf.get(device);
  if (!sources) {
    sources = new ArgumentBlock(device, 64);
    sourcesOf.set(device, sources);
  }
  sources.reserve(panels * 8);
  for (let panel = 0; panel < panels; panel++) {
    sources.setAddress(panel * 8, weight.address + startOf(panel) * bytes);
  }
  const { address, block } = kernelOf(device, `pack ${weight.dtype}`, (isa) =>
    emitPack(isa, weight.dtype),
  );
  block.setAddress(packWords.sources * 8, sources.address);
  block.setInt64(packWords.sourceStride * 8, weight.stride * bytes);
  block.setAddress(packWords.to * 8, place.address);
  block.setInt64(packWords.panelBytes * 8, place.panelBytes);
  block.setInt64(packWords.chunks * 8, chunks);
  device.launch(address, block.address, panels);
  return (chunks * chunkBytes) / bytes;
}

const source: Gpr = r8;
const stride: Gpr = r9;
const to: Gpr = r10;
const chunks: Gpr = r11;
/** The first row of a group, and the row that is read. */
const groupRow: Gpr = rcx;
const row: Gpr = rdx;

/** Emits the kernel that packs panel `task`; see `Device.launch`. */
function emitPack(isa: Isa, dtype: PackedType): Uint8Array {
  const asm = new Assembler();
  const word = (name: keyof typeof packWords) => mem(rdi, { disp: packWords[name] * 8 });
  asm.mov(stride, word("sourceStride"));
  asm.mov(source, word("sources"));
  asm.mov(source, mem(source, { index: rsi, scale: 8 }));
  asm.mov(to, rsi);
  asm.imul(to, word("panelBytes"));
  asm.add(to, word("to"));
  asm.mov(chunks, word("chunks"));
  const next = asm.here("chunk");
  new ChunkPacker(asm, hasAvx512(isa), dtype === "f8e4m3").emit();
  asm.add(source, chunkBytes);
  asm.add(to, chunkBytes * panelColumns);
  asm.dec(chunks);
  asm.jne(next);
  asm.vzeroupper();
  asm.ret();
  return asm.finish();
}

/** Transposes 64 bytes of 64 rows, group of columns by group. */
class ChunkPacker {
  private readonly asm: Assembler;
  private readonly vec: (code: number) => Vec;
  private readonly lanes: number;
  private readonly isCodes: boolean;
  /** Rows in a lane, which are also the units in 16 bytes of a row. */
  private readonly size: number;

  constructor(asm: Assembler, wide: boolean, isCodes: boolean) {
    this.asm = asm;
    this.vec = wide ? zmm : ymm;
    this.lanes = wide ? 4 : 2;
    this.isCodes = isCodes;
    this.size = isCodes ? 8 : 4;
  }

  emit(): void {
    const { asm } = this;
    // One register is for the transposition.
    const registers = this.vec === zmm ? 32 : 16;
    const together = Math.min(4, 2 ** Math.floor(Math.log2((registers - 1) / this.size)));
    let position = 0;
    asm.mov(groupRow, source);
    for (const { first, place } of this.groups()) {
      asm.imul(rax, stride, first - position);
      asm.add(groupRow, rax);
      position = first;
      for (let quarter = 0; quarter < 4; quarter += together) {
        const quarters = Array.from({ length: together }, (_, i) => quarter + i);
        const loaded = this.load(quarters);
        quarters.forEach((one, i) => {
          this.store(this.transpose(loaded[i]), one, place);
        });
      }
    }
  }

  /** Groups of columns that a register holds, by their first; and their place in a step. */
  private groups(): { first: number; place: number }[] {
    const columns = this.lanes * 4;
    const bytes = this.lanes * 16;
    if (!this.isCodes) {
      return Array.from({ length: panelColumns / columns }, (_, i) => ({
        first: i * columns,
        place: i * bytes,
      }));
    }
    // A register of codes has `columns` of the first 16 of 32 columns and those beside them.
    return [0, 1].flatMap((half) =>
      Array.from({ length: 16 / columns }, (_, i) => ({
        first: half * 32 + i * columns,
        place: half * 64 + i * bytes,
      })),
    );
  }

  /** The row, from the group's first on, that lane `lane` of register `register` holds. */
  private rowOf(lane: number, register: number): number {
    return (register >> 2) * 16 + lane * 4 + (register & 3);
  }

  /** For each of `quarters` of the 64 bytes, `size` registers. */
  private load(quarters: readonly number[]): Vec[][] {
    const { asm, size } = this;
    const loaded = quarters.map((_, i) =>
      Array.from({ length: size }, (_, register) => this.vec(i * size + register)),
    );
    const places = Array.from({ length: this.lanes * size }, (_, i) => {
      const [lane, register] = [Math.floor(i / size), i % size];
      return { lane, register, at: this.rowOf(lane, register) };
    }).sort((x, y) => x.at - y.at);
    let position = 0;
    asm.mov(row, groupRow);
    for (const { lane, register, at } of places) {
      for (; position < at; position++) asm.add(row, stride);
      quarters.forEach((quarter, i) => {
        const target = loaded[i][register];
        const from = mem(row, { disp: quarter * 16 });
        if (lane === 0) asm.vmovups(target.x, from);
        else if (this.vec === zmm) asm.vinserti32x4(target, target, from, lane);
        else asm.vinserti128(target, target, from, lane);
      });
    }
    return loaded;
  }

  /**
   * Register j with unit j of every row, in the order of rows. Interleaving the first half of the
   * registers with the second rotates the bits of (register, unit) by one, hence log2(size) times
   * swaps them. Uses the last register.
   */
  private transpose(rows: readonly Vec[]): readonly Vec[] {
    const { asm, isCodes, size } = this;
    let spare = this.vec(this.vec === zmm ? 31 : 15);
    let current = rows;
    for (let level = 1; level < size; level *= 2) {
      const next: Vec[] = [];
      for (let i = 0; i < size / 2; i++) {
        const [x, y] = [current[i], current[i + size / 2]];
        if (isCodes) {
          asm.vpunpcklwd(spare, x, y);
          asm.vpunpckhwd(x, x, y);
        } else {
          asm.vpunpckldq(spare, x, y);
          asm.vpunpckhdq(x, x, y);
        }
        next.push(spare, x);
        spare = y;
      }
      current = next;
    }
    return current;
  }

  private store(units: readonly Vec[], quarter: number, place: number): void {
    const stepBytes = this.isCodes ? 128 : 256;
    units.forEach((vector, unit) => {
      const step = quarter * this.size + unit;
      this.asm.vmovups(mem(to, { disp: step * stepBytes + place }), vector);
    });
  }
}
