/** @file Global memory of the emulator: buffers at made-up addresses with gaps between them. */
import { assert } from "../../../base/index.ts";
import { Region, type ShadowContext } from "./shadow.ts";

/** How a kernel may use a buffer. */
type Use = "input" | "output" | "inout";

/** A buffer of global memory. */
export class GlobalBuffer {
  readonly name: string;
  readonly address: number;
  readonly use: Use;
  readonly bytes: Uint8Array;
  /** Whether a launch has seen it: what that wrote can't be told from what it did not. */
  seen = false;

  constructor(name: string, address: number, use: Use, bytes: Uint8Array) {
    this.name = name;
    this.address = address;
    this.use = use;
    this.bytes = bytes;
  }

  /** The contents as float32. */
  get f32(): Float32Array {
    return new Float32Array(this.bytes.buffer);
  }

  /** The contents as 16-bit integers (bf16 codes). */
  get u16(): Uint16Array {
    return new Uint16Array(this.bytes.buffer);
  }

  /** The contents as 32-bit integers. */
  get u32(): Uint32Array {
    return new Uint32Array(this.bytes.buffer);
  }
}

const gap = 4096;

/** All buffers of a test. They outlive launches; what one kernel wrote the next one reads. */
export class GlobalMemory {
  readonly buffers: GlobalBuffer[] = [];
  private next = 0x10000000;

  private add(name: string, use: Use, bytes: Uint8Array): GlobalBuffer {
    const buffer = new GlobalBuffer(name, this.next, use, bytes);
    this.next = Math.ceil((this.next + bytes.length + gap) / gap) * gap;
    this.buffers.push(buffer);
    return buffer;
  }

  private copy(data: ArrayBufferView): Uint8Array {
    const bytes = new Uint8Array(Math.ceil(data.byteLength / 16) * 16);
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return bytes;
  }

  /** A copy of `data` that no kernel may write. */
  input(name: string, data: ArrayBufferView): GlobalBuffer {
    return this.add(name, "input", this.copy(data));
  }

  /** A copy of `data` that kernels read and write. */
  inout(name: string, data: ArrayBufferView): GlobalBuffer {
    return this.add(name, "inout", this.copy(data));
  }

  /** Room for results, filled with 0xff bytes (NaN); reading it in the first launch before it is written is a fault. */
  output(name: string, byteLength: number): GlobalBuffer {
    assert(byteLength > 0, `output ${name}: got ${byteLength} bytes`);
    return this.add(name, "output", new Uint8Array(Math.ceil(byteLength / 16) * 16).fill(0xff));
  }

  /** Fresh shadows for one launch. */
  open(context: ShadowContext): OpenMemory {
    const regions = this.buffers.map((buffer) => {
      const { name, address, use, bytes, seen } = buffer;
      const written = use !== "output" || seen;
      buffer.seen = true;
      const mutable = use !== "input";
      return new Region(context, { name, base: address, buffer: bytes.buffer, mutable, written });
    });
    return new OpenMemory(regions);
  }
}

/** The buffers during one launch. */
export class OpenMemory {
  private readonly regions: readonly Region[];

  constructor(regions: readonly Region[]) {
    this.regions = regions;
  }

  /** The buffer that holds `bytes` bytes at `address`. */
  find(address: number, bytes: number): { region: Region; offset: number } | undefined {
    for (const region of this.regions) {
      const offset = address - region.base;
      if (offset >= 0 && offset + bytes <= region.u8.length) return { region, offset };
    }
    return undefined;
  }
}
