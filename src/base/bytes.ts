/** @file Integer arithmetic on sizes, and sizes in words. All arguments are safe non-negative integers. */

/** The smallest multiple of `alignment` that is not below `value`. */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

/** `value / divisor`, rounded up. */
export function ceilDiv(value: number, divisor: number): number {
  return Math.ceil(value / divisor);
}

/** A byte count in binary units with three significant digits, such as `1.46 GiB`. */
export function formatBytes(bytes: number): string {
  return scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
}

/** A count in decimal units with three significant digits, such as `6.18 M`. */
export function formatCount(count: number): string {
  return scaled(count, 1000, ["", "k", "M", "G", "T"]).trimEnd();
}

function scaled(value: number, step: number, units: readonly string[]): string {
  let power = 0;
  while (value >= step && power < units.length - 1) {
    value /= step;
    power++;
  }
  return `${power === 0 ? value : Number(value.toPrecision(3))} ${units[power]}`;
}
