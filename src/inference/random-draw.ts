/**
 * @file One token drawn from a softmax by an exponential race: token i finishes at E_i / w_i, where
 * w_i = exp(logit_i / temperature) and the E_i are independent exponential variates; the first to
 * finish is distributed as the softmax (the Gumbel-max trick in another guise).
 *
 * E_i depends on (seed, position in the answer, token id) only. So the draw is the same whatever
 * else is in the batch, and two distributions that are close to each other draw the same token with
 * a probability near the best possible: speculative decoding drafts with the very draw that the
 * model's logits will see, and needs no rejection sampling.
 * Source: Daliri, Musco, Suresh, "Coupling without communication and drafter-invariant speculative
 * decoding" (2024); the bit mixer's constants as in `base`'s Random.
 */
import type { Cut } from "./token-filter.ts";

/** 32 well-mixed bits of a 32-bit integer; a bijection. */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
}

/** Two 32-bit keys of a draw: `seed` is an integer up to 2^53 in size, `index` the position. */
function keysOf(seed: number, index: number): [number, number] {
  const [low, high] = [seed >>> 0, Math.floor(seed / 4294967296) >>> 0];
  const first = mix(mix(mix(low + 0x9e3779b9) ^ high) + index);
  return [first, mix(first ^ mix(index ^ mix(low ^ 0x5bf03635) ^ high))];
}

/**
 * The id that wins the race over the tokens of `row` up to `cut` (all of them without one). `max`
 * is the greatest logit and `argmax` a token that has it; all are finite or -Infinity.
 */
export function drawToken(
  row: Float32Array,
  max: number,
  argmax: number,
  temperature: number,
  seed: number,
  index: number,
  cut?: Cut,
): number {
  const [key0, key1] = keysOf(seed, index);
  const least = cut?.logit ?? -Infinity;
  const lastId = cut?.tokenId ?? row.length;
  let winner = argmax;
  let best = exponential(mix(mix(argmax + key0) ^ key1), argmax, key1);
  for (let i = 0; i < row.length; i++) {
    const logit = row[i];
    if (logit < least || (logit === least && i > lastId) || i === argmax) continue;
    const bits = mix(mix(i + key0) ^ key1);
    // A bound without exp or log rules out nearly all: E >= 1 - u, and 1 / w = exp(y) is at least
    // its Taylor polynomial, as y >= 0.
    const y = (max - logit) / temperature;
    const inverse = 1 + y * (1 + (y / 2) * (1 + (y / 3) * (1 + y / 4)));
    if ((1 - ((bits >>> 0) + 1) / 4294967296) * inverse > best) continue;
    const time = exponential(bits, i, key1) * Math.exp(y);
    if (time < best) {
      best = time;
      winner = i;
    }
  }
  return winner;
}

/** -ln of a uniform number in (0, 1) of 53 bits: the 32 given, and 21 drawn here. */
function exponential(bits: number, tokenId: number, key: number): number {
  const low = mix(mix(tokenId ^ 0x68e31da4) + key) >>> 11;
  return -Math.log(((bits >>> 0) * 2097152 + low + 0.5) / 9007199254740992);
}
