/**
 * @file Tiles in shared memory and the tensor maps that fill them. A tile's type carries its
 * swizzle; descriptors for tensor cores, places of elements and the boxes of copies all derive
 * from it, and what does not fit is refused while staging.
 *
 * A tile whose rows are longer than the span of its swizzle lies as panels, each `rows` x span:
 *
 *     64 x 576 bf16, span 128 B:   [64 x 64] [64 x 64] ... nine panels of 8 KiB
 */
import { assert } from "../../../base/index.ts";
import {
  type CacheHint,
  type ElementType,
  elementBytes,
  type MapBox,
  type Swizzle,
} from "../ir.ts";
import { descriptorHigh, descriptorLow } from "../layout.ts";
import type { Builder } from "./builder.ts";
import type { U32, U32Like, U64 } from "./values.ts";

/** What a tile is, wherever it lies. */
export interface TileShape {
  readonly type: ElementType;
  readonly rows: number;
  readonly columns: number;
  readonly swizzle: Swizzle;
}

/** Bytes of a tile. */
export function tileBytes({ type, rows, columns }: TileShape): number {
  return rows * columns * elementBytes[type];
}

/** The alignment that a tile needs. */
export function tileAlignment({ swizzle }: TileShape): number {
  return swizzle === 0 ? 128 : 8 * swizzle;
}

/** An operand of a tensor core: `steps` descriptors, each for 32 bytes of k. */
export interface TileOperand {
  readonly shape: TileShape;
  readonly transposed: boolean;
  readonly steps: number;
  descriptor(step: number): U64;
}

/** A tile of shared memory. */
export class SharedTile {
  readonly k: Builder;
  readonly shape: TileShape;
  readonly address: U32;
  readonly span: number;
  readonly panelBytes: number;

  constructor(k: Builder, shape: TileShape, address?: U32) {
    this.k = k;
    this.shape = shape;
    const rowBytes = shape.columns * elementBytes[shape.type];
    this.span = shape.swizzle === 0 ? rowBytes : shape.swizzle;
    assert(rowBytes % this.span === 0, `rows of ${rowBytes} B, swizzled over ${this.span}`);
    this.panelBytes = shape.rows * this.span;
    this.address = address ?? k.shared(tileBytes(shape), tileAlignment(shape));
  }

  get panels(): number {
    return (this.shape.columns * elementBytes[this.shape.type]) / this.span;
  }

  /** Columns of one panel. */
  get panelColumns(): number {
    return this.span / elementBytes[this.shape.type];
  }

  /** `count` rows from a multiple of 8 on; the panels stay where they are. */
  rows(first: U32Like, count: number): SharedTile {
    const { k, shape, span, panelBytes } = this;
    const start = k.u32(first).mul(span);
    const part = new SharedTile(k, { ...shape, rows: count }, this.address.add(start));
    return Object.assign(part, { panelBytes });
  }

  /** `count` panels from `first` on. */
  panelRange(first: U32Like, count: number): SharedTile {
    const { k, shape, panelBytes, panelColumns } = this;
    const end = typeof first === "number" ? first + count : count;
    assert(end <= this.panels, `panels up to ${end} of ${this.panels}`);
    const part = { ...shape, columns: count * panelColumns };
    return Object.assign(new SharedTile(k, part, this.address.add(k.u32(first).mul(panelBytes))), {
      panelBytes,
    });
  }

  /** As an operand whose k runs along the rows of the tile. */
  alongRows(): TileOperand {
    const { shape, span, panelBytes } = this;
    assert(shape.swizzle !== 0, "tensor-core operands are swizzled here");
    const layout = { swizzle: shape.swizzle, strideBytes: 8 * span, leadingBytes: 16 };
    const perPanel = span / 32;
    return this.operand(layout, false, this.panels * perPanel, (step) => {
      return Math.floor(step / perPanel) * panelBytes + (step % perPanel) * 32;
    });
  }

  /** As an operand whose k runs down the columns (bf16 only). */
  downColumns(): TileOperand {
    const { shape, span, panelBytes } = this;
    assert(shape.type === "bf16", `k down the columns: got ${shape.type}, wanted bf16`);
    const layout = { swizzle: shape.swizzle, strideBytes: 8 * span, leadingBytes: panelBytes };
    return this.operand(layout, true, shape.rows / 16, (step) => step * 16 * span);
  }

  private operand(
    layout: Parameters<typeof descriptorHigh>[0],
    transposed: boolean,
    steps: number,
    offsetOf: (step: number) => number,
  ): TileOperand {
    const { k, shape } = this;
    const low = this.address.shr(4).or(descriptorLow(layout));
    const high = k.u32(descriptorHigh(layout));
    const descriptor = (step: number) => k.pack64(low.add(offsetOf(step) / 16), high);
    return { shape, transposed, steps, descriptor };
  }

  /** A row's address and what its swizzle does to chunks of 16 bytes. */
  row(row: U32): RowPointer {
    const { k, shape, span } = this;
    const start = row.mad(span, this.address);
    const masks = { 0: 0, 32: 1, 64: 3, 128: 7 } as const;
    // Bits 7 and up of the address: with spans of 128 bytes the row itself, else a part of it.
    const perLine = 128 / Math.min(span, 128);
    const mask = masks[shape.swizzle];
    const key = mask === 0 ? k.u32(0) : row.shr(Math.log2(perLine)).and(mask).shl(4);
    return new RowPointer(this, start, key);
  }
}

/** Where the elements of one row lie. */
export class RowPointer {
  private readonly tile: SharedTile;
  private readonly start: U32;
  private readonly key: U32;

  constructor(tile: SharedTile, start: U32, key: U32) {
    this.tile = tile;
    this.start = start;
    this.key = key;
  }

  /** The address of 16 bytes at a known `column`, plus `chunks` more (0 or 1; the column is even then). */
  chunk(column: number, chunks: U32Like = 0): U32 {
    const { span, panelBytes, shape, k } = this.tile;
    const byte = column * elementBytes[shape.type];
    const panel = Math.floor(byte / span);
    const inside = k.u32(chunks).shl(4).xor(this.key);
    return this.start.add(inside.xor(byte % span)).add(panel * panelBytes);
  }

  /** The address of an element whose column is known at run time only, in a tile of one panel. */
  element(column: U32): U32 {
    const { shape, panels } = this.tile;
    assert(panels === 1, "elements at run-time columns need a tile of one panel");
    return this.start.add(column.mul(elementBytes[shape.type]).xor(this.key));
  }
}

/** How a copy into shared memory is made. */
export interface LoadOptions {
  /** Blocks of the cluster that get the data too, as a mask. */
  readonly multicast?: number;
  readonly hint?: CacheHint;
}

/** A tensor in global memory, cut into boxes. Coordinates count elements, innermost first. */
export class TensorMap {
  readonly k: Builder;
  readonly box: MapBox;
  readonly name: string;
  private readonly pointer: U64;

  constructor(k: Builder, name: string, box: MapBox) {
    this.k = k;
    this.name = name;
    this.box = box;
    this.pointer = k.paramMap(name, box);
  }

  /** The map whose boxes are the panels of a tile, with more dimensions of extent 1 if `rank` > 2. */
  static ofTile(k: Builder, name: string, shape: TileShape, rank: number = 2): TensorMap {
    const { type, rows, columns, swizzle } = shape;
    const inner = swizzle === 0 ? columns : Math.min(columns, swizzle / elementBytes[type]);
    const box = [inner, rows, ...Array.from({ length: rank - 2 }, () => 1)];
    return new TensorMap(k, name, { type, box, swizzle });
  }

  prefetch(): void {
    this.k.node("PrefetchMap", {}, [], [this.pointer.operand]);
  }

  private check(tile: SharedTile): void {
    const { type, rows, swizzle } = tile.shape;
    const [columns, boxRows] = this.box.box;
    const fits = type === this.box.type && swizzle === this.box.swizzle;
    assert(
      fits && columns === tile.panelColumns && boxRows === rows,
      () =>
        `map ${this.name} has boxes of ${columns} x ${boxRows} ${this.box.type} (swizzle ` +
        `${this.box.swizzle}), the tile panels of ${tile.panelColumns} x ${rows} ${type} (${swizzle})`,
    );
  }

  /** Starts to fill a tile, panel by panel; the barrier gets its bytes. One thread. */
  load(tile: SharedTile, barrier: U32, at: readonly U32Like[], options: LoadOptions = {}): void {
    this.check(tile);
    for (let panel = 0; panel < tile.panels; panel++) {
      const address = tile.address.add(panel * tile.panelBytes);
      this.loadBox(address, barrier, this.panelAt(tile, at, panel), options);
    }
  }

  private panelAt(tile: SharedTile, at: readonly U32Like[], panel: number): U32Like[] {
    return [this.k.u32(at[0]).add(panel * tile.panelColumns), ...at.slice(1)];
  }

  /** Starts to copy one box to an address. One thread. */
  loadBox(address: U32, barrier: U32, at: readonly U32Like[], options: LoadOptions = {}): void {
    const { multicast, hint = "none" } = options;
    const operands = [this.pointer, address, barrier, ...at.map((x) => this.k.u32(x))];
    if (multicast) operands.push(this.k.u32(multicast));
    const attr = { rank: at.length, multicast: multicast !== undefined, hint };
    assert(at.length === this.box.box.length, `map ${this.name}: got ${at.length} coordinates`);
    this.k.node(
      "TmaLoad",
      attr,
      [],
      operands.map(({ operand }) => operand),
    );
  }

  /** Starts to write a tile out (or to add it), panel by panel. One thread, which commits after. */
  store(tile: SharedTile, at: readonly U32Like[], reduce: boolean = false): void {
    this.check(tile);
    for (let panel = 0; panel < tile.panels; panel++) {
      const address = tile.address.add(panel * tile.panelBytes);
      const operands = [
        this.pointer,
        address,
        ...this.panelAt(tile, at, panel).map((x) => this.k.u32(x)),
      ];
      const attr = { rank: at.length, reduce };
      this.k.node(
        "TmaStore",
        attr,
        [],
        operands.map(({ operand }) => operand),
      );
    }
  }
}

/** Closes the group of stores that this thread has started. */
export function commitStores(k: Builder): void {
  k.node("BulkCommit", {});
}

/** Waits until this thread's stores have read shared memory (`read`), or are complete. */
export function waitStores(k: Builder, what: "read" | "complete", pending: number = 0): void {
  k.node("BulkWait", { pending, readOnly: what === "read" });
}
