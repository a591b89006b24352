/**
 * @file Experts onto GPUs: a balanced placement, what limits it, one batch split among replicas, and
 * the moves when loads have changed. Run: node dist/examples/eplb.js
 */
import {
  balanceExperts,
  gpuLoads,
  maxOverMean,
  migrateExperts,
  rebalanceExperts,
  splitTokens,
  zipfLoads,
} from "baleen/eplb";

// Loads of 2 layers with 64 experts in 8 groups; 80 slots on 16 GPUs of 4 nodes.
const weight = zipfLoads({ seed: 1, layers: 2, experts: 64, exponent: 0.8 });
const [numReplicas, numGroups, numNodes, numGpus] = [80, 8, 4, 16];

const exact = rebalanceExperts(weight, numReplicas, numGroups, numNodes, numGpus);
const exactRatios = gpuLoads(weight, exact.phy2log, numGpus).map(maxOverMean);
const plan = balanceExperts(weight, numReplicas, numGroups, numNodes, numGpus);
plan.layers.forEach(({ maxOverMean: ratio, lowerBound, reason }, layer) => {
  console.log(
    `layer ${layer}: busiest GPU ${ratio.toFixed(3)} of the mean ` +
      `(exact mode ${exactRatios[layer].toFixed(3)}, bound ${lowerBound.toFixed(3)}). ${reason}`,
  );
});

const global = balanceExperts(weight, numReplicas, numGroups, numNodes, numGpus, {
  affinity: "global",
});
const ratios = global.maxOverMean.map((ratio) => ratio.toFixed(3));
console.log(`without group affinity: ${ratios.join(", ")}`);

// One batch has other loads than the average; its tokens are split anew among the same replicas.
const batch = zipfLoads({ seed: 1, layers: 2, experts: 64, exponent: 0.8, total: 4096 });
splitTokens(batch, plan.phy2log, numGpus, { whole: true }).forEach(
  ({ peak, certificate }, layer) => {
    const { experts, gpus, load } = certificate;
    console.log(
      `batch, layer ${layer}: at most ${peak} tokens a GPU; ` +
        `${experts.length} experts have ${load} tokens for ${gpus.length} GPUs, so none can do better`,
    );
  },
);

// The loads drift: move experts only where one move saves at least 0.005 of the mean.
const later = zipfLoads({ seed: 2, layers: 2, experts: 64, exponent: 0.8 });
const migration = migrateExperts(later, plan.phy2log, numGroups, numNodes, numGpus, {
  moveCost: 0.005,
});
migration.layers.forEach(({ before, after, moved, rounds }, layer) => {
  const change = `${before.toFixed(3)} to ${after.toFixed(3)}`;
  console.log(`migration, layer ${layer}: ${change} with ${moved} moves in ${rounds} rounds`);
});
