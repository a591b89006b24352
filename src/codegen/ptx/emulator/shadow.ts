/**
 * @file Memory with a shadow: for each word of 4 bytes who wrote it last and who has read it since,
 * as epochs (agent, clock) that are compared with the vector clocks of whoever comes next.
 *
 * An access is allowed if every earlier conflicting one happened before it. An asynchronous access
 * to what a warp wrote through the ordinary ("generic") proxy needs more: the writer's
 * `fence.proxy.async` must lie between. So each agent has two vectors, `clock` and `fenced`: what
 * happened before, and what of that is visible to the asynchronous proxy.
 *
 * Method: vector clocks with write epochs (Flanagan and Freund, "FastTrack", PLDI 2009), read vectors
 * kept dense because several warpgroups reading one tile is the rule here, not the exception.
 */
import type { Node } from "../ir.ts";
import { describePosition } from "../position.ts";
import { EmulatorFault } from "./fault.ts";

/** Who accesses memory: a warp, or one asynchronous operation. */
export interface Actor {
  readonly agent: number;
  readonly clock: Uint32Array;
  readonly fenced: Uint32Array;
  /** Through the asynchronous proxy. */
  readonly async: boolean;
  readonly node: Node;
  describe(): string;
}

const flagWritten = 1;
const flagAsync = 2;
const flagStrong = 4;

/** What the shadows of one machine share. */
export interface ShadowContext {
  readonly agents: number;
  readonly nameOf: (agent: number) => string;
  readonly sites: Node[];
}

/** A piece of memory: a global buffer or the shared memory of one block. */
export class Region {
  readonly name: string;
  readonly base: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly f32: Float32Array;
  /** Whether a kernel may write here; what it may not write needs no shadow. */
  readonly mutable: boolean;
  private readonly context: ShadowContext;
  private readonly flags: Uint8Array;
  private readonly writer: Uint16Array;
  private readonly writeClock: Uint32Array;
  private readonly writeSite: Uint32Array;
  private readonly readSite: Uint32Array;
  /** `[words, capacity]`: when each reader last read. Few agents ever read a region. */
  private reads: Uint32Array = new Uint32Array(0);
  private capacity = 0;
  private readonly columns: Int16Array;
  private readonly readers: number[] = [];
  private readonly siteOf = new Map<Node, number>();

  constructor(
    context: ShadowContext,
    options: {
      name: string;
      base: number;
      buffer: ArrayBufferLike;
      mutable: boolean;
      written: boolean;
    },
  ) {
    const { name, base, buffer, mutable, written } = options;
    const words = buffer.byteLength / 4;
    const shadowed = mutable ? words : 0;
    this.name = name;
    this.base = base;
    this.mutable = mutable;
    this.context = context;
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.f32 = new Float32Array(buffer);
    this.columns = new Int16Array(mutable ? context.agents : 0).fill(-1);
    this.flags = new Uint8Array(shadowed).fill(written ? flagWritten : 0);
    this.writer = new Uint16Array(shadowed);
    this.writeClock = new Uint32Array(shadowed);
    this.writeSite = new Uint32Array(shadowed);
    this.readSite = new Uint32Array(shadowed);
  }

  private site(node: Node): number {
    let index = this.siteOf.get(node);
    if (index === undefined) {
      index = this.context.sites.push(node) - 1;
      this.siteOf.set(node, index);
    }
    return index;
  }

  /** Checks and records that `actor` reads the word; `strong` accesses may meet other strong ones. */
  noteRead(actor: Actor, word: number, strong: boolean): void {
    if (!this.mutable) return;
    const flags = this.flags[word];
    if ((flags & flagWritten) === 0) this.fail("uninitialised", actor, word, "reads");
    if (!(strong && flags & flagStrong)) this.checkWriter(actor, word, "reads");
    // A strong read conflicts with weak writes only, and those it finds as a reader of theirs.
    if (strong) return;
    const column = this.columnOf(actor.agent);
    this.reads[word * this.capacity + column] = actor.clock[actor.agent];
    this.readSite[word] = this.site(actor.node);
  }

  /** Checks and records that `actor` writes the word. */
  noteWrite(actor: Actor, word: number, strong: boolean): void {
    if (!this.mutable) {
      throw new EmulatorFault(
        "read-only",
        `${actor.describe()} writes ${this.name}, which was given as an input`,
      );
    }
    const flags = this.flags[word];
    if (!(strong && flags & flagStrong)) {
      if (flags & flagWritten) this.checkWriter(actor, word, "overwrites");
      this.checkReaders(actor, word);
    }
    this.flags[word] = flagWritten | (actor.async ? flagAsync : 0) | (strong ? flagStrong : 0);
    this.writer[word] = actor.agent;
    this.writeClock[word] = actor.clock[actor.agent];
    this.writeSite[word] = this.site(actor.node);
  }

  private checkWriter(actor: Actor, word: number, verb: string): void {
    const agent = this.writer[word];
    const clock = this.writeClock[word];
    if (clock === 0 || (agent === actor.agent && !actor.async)) return;
    if (clock > actor.clock[agent]) this.fail("race", actor, word, verb);
    const generic = (this.flags[word] & flagAsync) === 0;
    if (actor.async && generic && clock > actor.fenced[agent]) {
      this.fail("proxy-fence", actor, word, verb);
    }
  }

  /** The column of a reader; a new one may widen the table. */
  private columnOf(agent: number): number {
    const known = this.columns[agent];
    if (known >= 0) return known;
    const column = this.readers.push(agent) - 1;
    this.columns[agent] = column;
    if (column < this.capacity) return column;
    const { reads, capacity } = this;
    this.capacity = Math.max(16, 2 * capacity);
    this.reads = new Uint32Array(this.flags.length * this.capacity);
    for (let word = 0; capacity > 0 && word < this.flags.length; word++) {
      const row = reads.subarray(word * capacity, (word + 1) * capacity);
      this.reads.set(row, word * this.capacity);
    }
    return column;
  }

  private checkReaders(actor: Actor, word: number): void {
    const { reads, readers, capacity } = this;
    const start = word * capacity;
    const { clock } = actor;
    for (let column = 0; column < readers.length; column++) {
      const agent = readers[column];
      if (reads[start + column] > clock[agent] && agent !== actor.agent) {
        const site = describePosition(this.context.sites[this.readSite[word]].at);
        throw new EmulatorFault(
          "race",
          `${actor.describe()} writes ${this.place(word)} while ${this.context.nameOf(agent)} may ` +
            `still read it (last read at ${site})`,
        );
      }
    }
  }

  private place(word: number): string {
    return `${this.name}+${word * 4}`;
  }

  private fail(
    code: "race" | "proxy-fence" | "uninitialised",
    actor: Actor,
    word: number,
    verb: string,
  ): never {
    if (code === "uninitialised") {
      throw new EmulatorFault(code, `${actor.describe()} reads ${this.place(word)}, never written`);
    }
    const site = this.context.sites[this.writeSite[word]];
    const writer = this.context.nameOf(this.writer[word]);
    const why =
      code === "race"
        ? "with nothing between that orders the two"
        : "without the writer's fence.proxy.async between";
    throw new EmulatorFault(
      code,
      `${actor.describe()} ${verb} ${this.place(word)}, which ${writer} wrote at ` +
        `${describePosition(site.at)} (${site.kind}) ${why}`,
    );
  }
}
