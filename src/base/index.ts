/** @file Door of `base`: what every other room may stand on. Imports nothing of the house. */
export { assert, assertEqual } from "./assert.ts";
export { alignUp, ceilDiv, formatBytes, formatCount } from "./bytes.ts";
export { type Clock, realClock, VirtualClock } from "./clock.ts";
export { BaleenError, type ErrorTable, type RetryAdvice } from "./error.ts";
export { isLinearizable, type ObservedOperation } from "./linearizable.ts";
export { medianOf } from "./median.ts";
export { nearestName } from "./nearest.ts";
export { BoundedQueue } from "./queue.ts";
export { Random } from "./random.ts";
export { workerUrl } from "./worker-url.ts";
