/**
 * @file onnxruntime as a peer: a model of one MatMul whose second operand is constant, so that it
 * may be packed beforehand. The bytes of the model are written here, field by field (ONNX's
 * protocol buffers, onnx.proto3).
 */

/** Wire types. */
const [varintType, bytesType] = [0, 2];
const float = 1;

function varint(value) {
  const bytes = [];
  let rest = BigInt(value);
  do {
    const more = rest > 127n;
    bytes.push(Number(rest & 127n) | (more ? 128 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
}

function number(field, value) {
  return Buffer.concat([varint((field << 3) | varintType), varint(value)]);
}

function bytes(field, value) {
  const content = typeof value === "string" ? Buffer.from(value) : value;
  return Buffer.concat([varint((field << 3) | bytesType), varint(content.length), content]);
}

function message(field, ...fields) {
  return bytes(field, Buffer.concat(fields));
}

/** A named tensor of float32 as a graph's input or output. */
function valueInfo(field, name, rows, columns) {
  const dimensions = [rows, columns].map((size) => message(1, number(1, size)));
  const tensor = message(1, number(1, float), message(2, ...dimensions));
  return message(field, bytes(1, name), message(2, tensor));
}

/** The model d = a w, a `[m, k]`, w `[k, n]` constant, as a file's bytes. */
function matmulModel(m, n, k, weights) {
  const raw = Buffer.from(weights.buffer, weights.byteOffset, weights.byteLength);
  const node = message(1, bytes(1, "a"), bytes(1, "w"), bytes(2, "d"), bytes(4, "MatMul"));
  const constant = message(
    5,
    number(1, k),
    number(1, n),
    number(2, float),
    bytes(8, "w"),
    bytes(9, raw),
  );
  const ends = [valueInfo(11, "a", m, k), valueInfo(12, "d", m, n)];
  const graph = message(7, node, bytes(2, "product"), constant, ...ends);
  return Buffer.concat([number(1, 8), graph, message(8, number(2, 13))]);
}

/** onnxruntime, or a line that says how to install it. */
export async function openOnnxruntime() {
  let ort;
  try {
    ort = await import("onnxruntime-node");
  } catch {
    return { absent: "onnxruntime-node is not here: npm ci --ignore-scripts --prefix peers" };
  }
  return {
    name: `onnxruntime ${ort.env.versions.node}`,
    /** An asynchronous function that computes a w, both Float32Arrays, w `[k, n]`. */
    matmul: async ({ m, n, k, a, w, threads }) => {
      const session = await ort.InferenceSession.create(matmulModel(m, n, k, w), {
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
      });
      const input = new ort.Tensor("float32", a, [m, k]);
      return async () => (await session.run({ a: input })).d.data;
    },
  };
}
