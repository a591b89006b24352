/** @file Door of `graysort`: the sort benchmark's records, generated, sorted and validated. */
export { type GenerateOptions, generateFile, type KeySpread, tallyFiles } from "./files.ts";
export {
  type Manifest,
  type SortOptions,
  type SortProgress,
  type SortReport,
  sortFiles,
} from "./job.ts";
export type { Tally } from "./kernels.ts";
