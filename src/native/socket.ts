/** @file Options of sockets that Node has no words for. */
import { addressOf, nativeLayer } from "./koffi.ts";

const levelTcp = 6;
const optionCongestion = 13;

/**
 * Asks for the congestion control `name` (`"reno"`) on the TCP socket with this descriptor; false
 * where there is no native layer, or the system refuses. Worth it on loopback: BBR, which paces by
 * measured round trips, halves what `reno` carries there.
 */
export function setCongestionControl(descriptor: number, name: string): boolean {
  const text = Buffer.from(name);
  const layer = nativeLayer();
  if (layer === undefined) return false;
  const address = addressOf(text);
  return layer.setsockopt(descriptor, levelTcp, optionCongestion, address, text.length) === 0;
}
