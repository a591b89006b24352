/**
 * @file An ordered map whose every version stays readable: a B+ tree that copies the path it changes.
 * A snapshot is a root, and costs nothing. Nodes may run empty but not over, which keeps deletion
 * short and look-ups logarithmic in the number of keys ever held together.
 */
interface Leaf<V> {
  readonly keys: readonly string[];
  readonly values: readonly V[];
}

interface Branch<V> {
  /** `keys[i]` is at or below every key under `children[i]`, and above those under `children[i - 1]`. */
  readonly keys: readonly string[];
  readonly children: readonly Node<V>[];
}

type Node<V> = Leaf<V> | Branch<V>;

const nodeWidth = 32;

/** One version of an ordered map from strings to values; changing it gives another version. */
export class OrderedTree<V> {
  private readonly root: Node<V>;

  private constructor(root: Node<V>) {
    this.root = root;
  }

  /** The map without keys. */
  static empty<V>(): OrderedTree<V> {
    return new OrderedTree<V>({ keys: [], values: [] });
  }

  /** The value of `key`. O(log n). */
  get(key: string): V | undefined {
    let node = this.root;
    while ("children" in node) node = node.children[childAt(node, key)];
    const index = lowerBound(node.keys, key);
    return node.keys[index] === key ? node.values[index] : undefined;
  }

  /** The map with `key` set to `value`. O(log n). */
  with(key: string, value: V): OrderedTree<V> {
    const parts = insert(this.root, key, value);
    if (parts.length === 1) return new OrderedTree(parts[0]);
    return new OrderedTree<V>({ keys: ["", parts[1].keys[0]], children: parts });
  }

  /** The map without the keys from `begin` up to, not including, `end`. */
  without(begin: string, end: string): OrderedTree<V> {
    let root = begin < end ? cut(this.root, begin, end) : this.root;
    while (root && "children" in root && root.children.length === 1) root = root.children[0];
    return root ? new OrderedTree(root) : OrderedTree.empty();
  }

  /** Calls `visit` for the keys from `begin` up to `end` in order, backwards on demand, until it says false. */
  visit(
    begin: string,
    end: string,
    reverse: boolean,
    visit: (key: string, value: V) => boolean,
  ): void {
    if (begin < end) walk(this.root, begin, end, reverse, visit);
  }
}

/** The first index whose key is not below `key`. */
export function lowerBound(keys: readonly string[], key: string): number {
  let [low, high] = [0, keys.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keys[middle] < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

function childAt<V>({ keys }: Branch<V>, key: string): number {
  const index = lowerBound(keys, key);
  return keys[index] === key ? index : Math.max(0, index - 1);
}

/** The node, or the two nodes, that replace `node` once it holds `key`. */
function insert<V>(node: Node<V>, key: string, value: V): Node<V>[] {
  if (!("children" in node)) {
    const index = lowerBound(node.keys, key);
    const replaced = node.keys[index] === key ? 1 : 0;
    const keys = replaced ? node.keys : node.keys.toSpliced(index, 0, key);
    const values = node.values.toSpliced(index, replaced, value);
    if (keys.length <= nodeWidth) return [{ keys, values }];
    const half = keys.length >> 1;
    return [
      { keys: keys.slice(0, half), values: values.slice(0, half) },
      { keys: keys.slice(half), values: values.slice(half) },
    ];
  }
  const index = childAt(node, key);
  const parts = insert(node.children[index], key, value);
  const bounds = parts.length === 1 ? [] : [parts[1].keys[0]];
  const keys = node.keys.toSpliced(index + 1, 0, ...bounds);
  const children = node.children.toSpliced(index, 1, ...parts);
  if (keys.length <= nodeWidth) return [{ keys, children }];
  const half = keys.length >> 1;
  return [
    { keys: keys.slice(0, half), children: children.slice(0, half) },
    { keys: keys.slice(half), children: children.slice(half) },
  ];
}

/** `node` without the range, undefined where nothing stays. */
function cut<V>(node: Node<V>, begin: string, end: string): Node<V> | undefined {
  if (!("children" in node)) {
    const from = lowerBound(node.keys, begin);
    const count = lowerBound(node.keys, end) - from;
    if (count === 0) return node;
    if (count === node.keys.length) return undefined;
    return {
      keys: node.keys.toSpliced(from, count),
      values: node.values.toSpliced(from, count),
    };
  }
  const first = childAt(node, begin);
  const last = childAt(node, end);
  const keys: string[] = node.keys.slice(0, first);
  const children: Node<V>[] = node.children.slice(0, first);
  for (let i = first; i <= last; i++) {
    const rest = i > first && i < last ? undefined : cut(node.children[i], begin, end);
    if (!rest) continue;
    keys.push(node.keys[i]);
    children.push(rest);
  }
  keys.push(...node.keys.slice(last + 1));
  children.push(...node.children.slice(last + 1));
  return children.length === 0 ? undefined : { keys, children };
}

/** Whether to go on. */
function walk<V>(
  node: Node<V>,
  begin: string,
  end: string,
  reverse: boolean,
  visit: (key: string, value: V) => boolean,
): boolean {
  if ("children" in node) {
    const [first, last] = [childAt(node, begin), childAt(node, end)];
    for (let i = first; i <= last; i++) {
      const child = node.children[reverse ? last - (i - first) : i];
      if (!walk(child, begin, end, reverse, visit)) return false;
    }
    return true;
  }
  const [first, last] = [lowerBound(node.keys, begin), lowerBound(node.keys, end)];
  for (let i = first; i < last; i++) {
    const at = reverse ? last - 1 - (i - first) : i;
    if (!visit(node.keys[at], node.values[at])) return false;
  }
  return true;
}
