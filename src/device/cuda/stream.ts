/** @file Streams, events and graphs: what the GPU does in which order, and how long it takes. */
import type { CudaDriver } from "../../native/index.ts";
import { callDriver } from "./errors.ts";
import { Words } from "./words.ts";

const nonBlocking = 1;
const captureThreadLocal = 1;

/** A queue of work that the GPU does in order. */
export class CudaStream {
  /** The driver's handle; 0 after `close`. */
  handle: number;
  private readonly driver: CudaDriver;

  constructor(driver: CudaDriver) {
    this.driver = driver;
    const out = new Words(8);
    callDriver(driver, "making a stream", "cuStreamCreate", out.address, nonBlocking);
    this.handle = out.long();
  }

  /** Waits until all that was put on the stream is done; throws what went wrong meanwhile. */
  synchronize(): void {
    callDriver(this.driver, "waiting for the GPU", "cuStreamSynchronize", this.handle);
  }

  /** A mark at the stream's present end. */
  record(): CudaEvent {
    return new CudaEvent(this.driver, this.handle);
  }

  /** What follows waits for `event`, which may be of another stream. */
  waitFor(event: CudaEvent): void {
    callDriver(
      this.driver,
      "waiting for an event",
      "cuStreamWaitEvent",
      this.handle,
      event.handle,
      0,
    );
  }

  /** Records what `body` puts on the stream instead of running it; the graph runs it in one launch. */
  capture(body: () => void): CudaGraph {
    const { driver, handle } = this;
    callDriver(driver, "capturing", "cuStreamBeginCapture", handle, captureThreadLocal);
    const graph = new Words(8);
    let failure: unknown;
    try {
      body();
    } catch (error) {
      failure = error;
    }
    const status = driver.call("cuStreamEndCapture", handle, graph.address);
    if (failure !== undefined) {
      if (status === 0) driver.call("cuGraphDestroy", graph.long());
      throw failure;
    }
    if (status !== 0) callDriver(driver, "capturing", "cuStreamEndCapture", handle, graph.address);
    return new CudaGraph(driver, graph.long());
  }

  /** Ends the stream. */
  close(): void {
    if (this.handle === 0) return;
    callDriver(this.driver, "ending a stream", "cuStreamDestroy", this.handle);
    this.handle = 0;
  }
}

/** A moment on a stream. */
export class CudaEvent {
  readonly handle: number;
  private readonly driver: CudaDriver;

  constructor(driver: CudaDriver, stream: number) {
    this.driver = driver;
    const out = new Words(8);
    callDriver(driver, "making an event", "cuEventCreate", out.address, 0);
    this.handle = out.long();
    callDriver(driver, "recording an event", "cuEventRecord", this.handle, stream);
  }

  /** Microseconds of the GPU from `earlier` to this; waits for both. */
  microsecondsSince(earlier: CudaEvent): number {
    const out = new Words(8);
    callDriver(this.driver, "waiting for an event", "cuEventSynchronize", this.handle);
    const handles = [earlier.handle, this.handle] as const;
    callDriver(this.driver, "timing", "cuEventElapsedTime", out.address, ...handles);
    return out.float() * 1000;
  }

  /** Gives the event back. */
  close(): void {
    callDriver(this.driver, "ending an event", "cuEventDestroy", this.handle);
  }
}

/** Captured work. */
export class CudaGraph {
  private readonly driver: CudaDriver;
  private readonly executable: number;

  constructor(driver: CudaDriver, graph: number) {
    this.driver = driver;
    const out = new Words(8);
    try {
      const what = "making a graph";
      callDriver(driver, what, "cuGraphInstantiateWithFlags", out.address, graph, 0);
    } finally {
      driver.call("cuGraphDestroy", graph);
    }
    this.executable = out.long();
  }

  /** Puts all of it on `stream`. */
  launch(stream: CudaStream): void {
    callDriver(this.driver, "launching a graph", "cuGraphLaunch", this.executable, stream.handle);
  }

  /** Gives the graph back. */
  close(): void {
    callDriver(this.driver, "ending a graph", "cuGraphExecDestroy", this.executable);
  }
}
