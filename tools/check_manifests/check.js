// node check.js MANIFESTS BIN_DIR: checks contrib/kubernetes against Kubernetes' schemas and against itself, then that a check of
// each kind fails when something is wrong. Exits with 1 and a line for each problem.
'use strict';

const fs = require('fs');
const path = require('path');
const { build, readObjects } = require('./kustomize');
const schemas = require('./schemas');
const references = require('./references');

const [manifests, binDir] = process.argv.slice(2);
if (!binDir) {
  console.error('usage: node check.js MANIFESTS BIN_DIR');
  process.exit(2);
}

function problemsOf(objects) {
  const problems = [];
  for (const object of objects) {
    for (const text of schemas.problemsOf(object)) problems.push(`${object.kind} ${(object.metadata || {}).name}: ${text}`);
  }
  return problems.length > 0 ? problems : references.problemsOf(objects, binDir);
}

const problems = [];
let count = 0;
function check(where, objects) {
  count += objects.length;
  for (const text of problemsOf(objects)) problems.push(`${where}: ${text}`);
}

for (const folder of ['base', 'overlays/single-node', 'examples']) check(folder, build(path.join(manifests, folder)));
const listed = new Set(fs.readdirSync(path.join(manifests, 'base')));
for (const name of ['kustomization.yaml', ...readObjects(path.join(manifests, 'base/kustomization.yaml'))[0].resources]) listed.delete(name);
for (const name of listed) problems.push(`base/${name} is in no kustomization`);
for (const name of ['snapshot.yaml', 'clone.yaml']) check(`examples/${name}`, readObjects(path.join(manifests, 'examples', name)));

// Each must be noticed: one thing wrong at a time.
const object = (objects, kind, name) => objects.find((one) => one.kind === kind && one.metadata.name === name);
const container = (objects, kind, name) => object(objects, kind, name).spec.template.spec.containers[0];
const MISTAKES = {
  'an unknown field': (all) => { object(all, 'StatefulSet', 'agro-peer').spec.replica = 3; },
  'an unknown field deep inside': (all) => { container(all, 'StatefulSet', 'agro-peer').readinessProbe.httpGet.url = '/'; },
  'an unknown field of a snapshot class': (all) => { object(all, 'VolumeSnapshotClass', 'agro').provisioner = 'x'; },
  'a missing field': (all) => { delete object(all, 'StatefulSet', 'agro-peer').spec.selector; },
  'a missing field of a snapshot class': (all) => { delete object(all, 'VolumeSnapshotClass', 'agro').driver; },
  'a wrong type': (all) => { object(all, 'StatefulSet', 'agro-peer').spec.replicas = 'three'; },
  'an unknown kind': (all) => { object(all, 'StatefulSet', 'agro-peer').kind = 'StatefulSets'; },
  'labels that do not match': (all) => { object(all, 'StatefulSet', 'agro-peer').spec.template.metadata.labels = { a: 'b' }; },
  'a budget for nobody': (all) => { object(all, 'PodDisruptionBudget', 'etcd').spec.selector.matchLabels = { a: 'b' }; },
  'a budget that stops drains': (all) => { object(all, 'PodDisruptionBudget', 'agro-peer').spec.maxUnavailable = 0; },
  'an account that is not there': (all) => { object(all, 'DaemonSet', 'agro-csi-node').spec.template.spec.serviceAccountName = 'x'; },
  'a role that is not there': (all) => { object(all, 'RoleBinding', 'agro-csi-controller').roleRef.name = 'x'; },
  'a volume that is not there': (all) => { container(all, 'DaemonSet', 'agro-csi-node').volumeMounts[0].name = 'x'; },
  'a probe of no port': (all) => { container(all, 'StatefulSet', 'agro-peer').readinessProbe.httpGet.port = 'x'; },
  'a flag that agro does not know': (all) => { container(all, 'StatefulSet', 'agro-peer').args.push('--listen=1'); },
  'a flag that agrocsi does not know': (all) => { container(all, 'DaemonSet', 'agro-csi-node').args.push('--nodeid=1'); },
  'a driver that is not there': (all) => { object(all, 'StorageClass', 'agro').provisioner = 'x'; },
};
if (problems.length === 0) {
  for (const [what, make] of Object.entries(MISTAKES)) {
    const all = build(path.join(manifests, 'base'));
    make(all);
    if (problemsOf(all).length === 0) problems.push(`self-test: ${what} was not noticed`);
  }
}

for (const problem of problems) console.error(problem);
if (problems.length === 0) console.log(`${count} objects are right, and ${Object.keys(MISTAKES).length} kinds of mistakes are noticed`);
process.exit(problems.length === 0 ? 0 : 1);
