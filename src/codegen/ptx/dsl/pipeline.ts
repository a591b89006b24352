/**
 * @file Barriers in shared memory, and pipelines built of them: a ring of stages that a producer
 * fills by copies and consumers empty. A pipeline owns stage and phase; nobody else sees a parity.
 *
 *     producer   wait empty[s] -> announce bytes on full[s] -> copies ...   s, phase advance
 *     consumer   wait full[s]  -> use the tiles  -> arrive at empty[s]      s, phase advance
 */
import { assert } from "../../../base/index.ts";
import type { Builder } from "./builder.ts";
import {
  type LoadOptions,
  SharedTile,
  type TensorMap,
  type TileShape,
  tileAlignment,
  tileBytes,
} from "./tile.ts";
import type { U32, U32Like, U32Variable } from "./values.ts";

/** Some mbarriers side by side, each for `count` arrivals a phase. */
export class Barriers {
  readonly k: Builder;
  readonly length: number;
  readonly count: number;
  private readonly base: U32;

  constructor(k: Builder, length: number, count: number) {
    this.k = k;
    this.length = length;
    this.count = count;
    this.base = k.shared(8 * length, 8);
  }

  at(index: U32Like): U32 {
    return typeof index === "number" ? this.base.add(8 * index) : index.mad(8, this.base);
  }

  /** One thread makes them barriers. */
  init(): void {
    for (let i = 0; i < this.length; i++) {
      this.k.node("MbarInit", { count: this.count }, [], [this.at(i).operand]);
    }
  }

  /** One thread ends their lives; their memory may then serve otherwise. */
  invalidate(): void {
    for (let i = 0; i < this.length; i++) {
      this.k.node("MbarInval", {}, [], [this.at(i).operand]);
    }
  }

  /** Waits until the phase of this parity is complete. */
  wait(index: U32Like, parity: U32Like): void {
    const scope = this.k.clusterSize > 1 ? "cluster" : "cta";
    this.k.node("MbarWait", { scope }, [], [this.at(index).operand, this.k.u32(parity).operand]);
  }

  /** Every lane that is on arrives once. */
  arrive(index: U32Like): void {
    this.k.node("MbarArrive", { remote: false }, [], [this.at(index).operand]);
  }

  /** Arrives at the same barrier of another block. */
  arriveAt(index: U32Like, rank: U32): void {
    const mapped = this.k.mapShared(this.at(index), rank);
    this.k.node("MbarArrive", { remote: true }, [], [mapped.operand]);
  }

  /** One thread arrives and announces bytes that copies will deliver in this phase. */
  arriveExpecting(index: U32Like, bytes: U32Like): void {
    const src = [this.at(index).operand, this.k.u32(bytes).operand];
    this.k.node("MbarExpect", { arrive: true }, [], src);
  }
}

/** The first thread makes barriers, and all threads of the cluster wait until they exist. */
export function initBarriers(k: Builder, barriers: readonly Barriers[]): void {
  k.firstThread(() => {
    for (const each of barriers) each.init();
    k.fenceMbarrierInit();
  });
  if (k.clusterSize > 1) k.syncCluster();
  else k.syncThreads();
}

type Tiles<S extends string> = Readonly<Record<S, SharedTile>>;

/** What one stage offers its producer. */
export interface ProducerStage<S extends string> {
  readonly tiles: Tiles<S>;
  /** Starts to fill a tile from a tensor. */
  load(map: TensorMap, tile: S, at: readonly U32Like[], options?: LoadOptions): void;
}

/** What one stage offers its consumers. */
export interface ConsumerStage<S extends string> {
  readonly tiles: Tiles<S>;
  /** This warp is done with the stage. */
  release(): void;
}

/** A ring of stages. */
export class Pipeline<S extends string> {
  readonly k: Builder;
  readonly stages: number;
  readonly full: Barriers;
  readonly empty: Barriers;
  private readonly shapes: readonly (readonly [S, TileShape, U32])[];
  private readonly stageBytes: number;

  /**
   * `consumers`: warps of a block that release a stage. In a cluster the warps of all its blocks
   * release it in every block, since a multicast fills them all.
   */
  constructor(
    k: Builder,
    options: { stages: number; tiles: Readonly<Record<S, TileShape>>; consumers: number },
  ) {
    const { stages, tiles, consumers } = options;
    assert(stages >= 1, `a pipeline of ${stages} stages`);
    this.k = k;
    this.stages = stages;
    this.shapes = (Object.entries(tiles) as [S, TileShape][]).map(([name, shape]) => {
      const alignment = tileAlignment(shape);
      assert(
        tileBytes(shape) % alignment === 0,
        `tile ${name} of ${tileBytes(shape)} B is unaligned`,
      );
      return [name, shape, k.shared(stages * tileBytes(shape), alignment)];
    });
    this.stageBytes = this.shapes.reduce((sum, [, shape]) => sum + tileBytes(shape), 0);
    this.full = new Barriers(k, stages, 1);
    this.empty = new Barriers(k, stages, consumers * k.clusterSize);
  }

  private tilesAt(stage: U32): Tiles<S> {
    const entries = this.shapes.map(([name, shape, base]) => {
      return [name, new SharedTile(this.k, shape, stage.mad(tileBytes(shape), base))] as const;
    });
    return Object.fromEntries(entries) as Tiles<S>;
  }

  /** A role's place in the ring. */
  cursor(): Cursor {
    return new Cursor(this.k, this.stages);
  }

  /** Waits for an empty stage and lets `body` start the copies that fill all of it. One thread. */
  produce(cursor: Cursor, body: (stage: ProducerStage<S>) => void): void {
    const { stage, phase } = cursor;
    this.empty.wait(stage, phase.xor(1));
    this.full.arriveExpecting(stage, this.stageBytes);
    const tiles = this.tilesAt(stage);
    const barrier = this.full.at(stage);
    cursor.advance();
    body({ tiles, load: (map, tile, at, options) => map.load(tiles[tile], barrier, at, options) });
  }

  /**
   * Waits for a full stage and lets `body` use it; `body` must release it. Calls may be nested, to
   * hold several stages at once.
   */
  consume(cursor: Cursor, body: (stage: ConsumerStage<S>) => void): void {
    const { stage, phase } = cursor;
    this.full.wait(stage, phase);
    const tiles = this.tilesAt(stage);
    const empty = this.empty.at(stage);
    cursor.advance();
    body({ tiles, release: () => this.release(empty) });
  }

  /** This warp is done with the stage at a cursor of its own, which moves on. */
  releaseNext(cursor: Cursor): void {
    this.release(this.empty.at(cursor.stage));
    cursor.advance();
  }

  private release(empty: U32): void {
    const { k } = this;
    k.syncWarp();
    k.if(k.lane.lt(k.clusterSize), () => {
      const remote = k.clusterSize > 1;
      const address = remote ? k.mapShared(empty, k.lane) : empty;
      k.node("MbarArrive", { remote }, [], [address.operand]);
    });
  }
}

/** A stage and the parity of its phase. */
export class Cursor {
  readonly stage: U32Variable;
  readonly phase: U32Variable;
  private readonly stages: number;

  constructor(k: Builder, stages: number) {
    this.stages = stages;
    this.stage = k.variable(0);
    this.phase = k.variable(0);
  }

  advance(): void {
    const { stage, phase, stages } = this;
    const next = stage.add(1);
    const wraps = next.eq(stages);
    phase.set(wraps.select(phase.xor(1), phase));
    stage.set(wraps.select(stage.k.u32(0), next));
  }
}
