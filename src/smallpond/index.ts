/** @file Door of `smallpond`. */
export {
  type GenerateOptions,
  generateFile,
  type KeySpread,
  type Manifest,
  type SortOptions,
  type SortProgress,
  type SortReport,
  sortFiles,
  type Tally,
  tallyFiles,
} from "./graysort/index.ts";
