/**
 * @file Times of traces without loss: PyTorch writes microseconds since 1970 with three decimals,
 * 16 + 3 digits, more than a double holds. A time is kept as whole microseconds and nanoseconds.
 */

/** A time: `us` whole microseconds (rounded down) and `ns` from 0 to 999 nanoseconds. */
export interface ExactTime {
  us: number;
  ns: number;
}

const powers = [1, 10, 100];
/** Sixteen digits up to here are exact in a double; of more than sixteen, nothing is known. */
const maxPlain = 9e15;

/**
 * Reads the JSON number `bytes[start, end)` as microseconds into `into`, to whole nanoseconds (finer
 * digits are rounded, halves up); false if it is no number, or beyond 2^53 microseconds.
 * Plain decimals are read digit by digit; exponents and long numbers by big integers.
 */
export function readTime(bytes: Uint8Array, start: number, end: number, into: ExactTime): boolean {
  let at = start;
  const negative = bytes[at] === 0x2d;
  if (negative) at++;
  const firstDigit = at;
  let us = 0;
  for (; at < end; at++) {
    const digit = bytes[at] - 0x30;
    if (digit < 0 || digit > 9) break;
    us = us * 10 + digit;
  }
  const numDigits = at - firstDigit;
  if (numDigits === 0) return false;
  let ns = 0;
  if (at < end && bytes[at] === 0x2e) {
    const firstDecimal = ++at;
    for (; at < end; at++) {
      const digit = bytes[at] - 0x30;
      if (digit < 0 || digit > 9) break;
      if (at - firstDecimal < 3) ns = ns * 10 + digit;
      else if (at - firstDecimal === 3 && digit >= 5) ns++;
    }
    const numDecimals = at - firstDecimal;
    if (numDecimals === 0) return false;
    // Rounding of a negative number goes the other way: leave halves to the exact road.
    if (numDecimals > 3 && negative) return readSlowly(bytes, start, end, into);
    if (numDecimals < 3) ns *= powers[3 - numDecimals];
    if (ns === 1000) [us, ns] = [us + 1, 0];
  }
  if (at < end || numDigits > 16 || us > maxPlain) return readSlowly(bytes, start, end, into);
  if (negative) [us, ns] = ns > 0 ? [-us - 1, 1000 - ns] : [0 - us, 0];
  into.us = us;
  into.ns = ns;
  return true;
}

const decimal = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d{1,4}))?$/;

function readSlowly(bytes: Uint8Array, start: number, end: number, into: ExactTime): boolean {
  if (end - start > 1024) return false;
  const match = decimal.exec(String.fromCharCode(...bytes.subarray(start, end)));
  if (!match) return false;
  const [, sign, whole, fraction = "", exponent = "0"] = match;
  const digits = BigInt(whole + fraction);
  // The value in nanoseconds is digits * 10^scale.
  const scale = 3 + Number(exponent) - fraction.length;
  if (digits !== 0n && scale > 40) return false;
  let ns: bigint;
  if (scale >= 0) ns = digits === 0n ? 0n : digits * 10n ** BigInt(scale);
  else {
    const divisor = 10n ** BigInt(-scale);
    const up = sign === "-" ? divisor - 1n : divisor;
    ns = (2n * digits + up) / (2n * divisor);
  }
  if (sign === "-") ns = -ns;
  const rest = ((ns % 1000n) + 1000n) % 1000n;
  into.us = Number((ns - rest) / 1000n);
  into.ns = Number(rest);
  return Number.isSafeInteger(into.us);
}
