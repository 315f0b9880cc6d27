// What schemas do not see: names that must mean something, labels that must match, flags that our programs must know.
'use strict';

const { execFileSync } = require('child_process');
const path = require('path');
const { podSpecs } = require('./kustomize');

const OURS = ['agro', 'agroblock', 'agrocsi', 'agroctl'];

function matches(selector, labels) {
  return Object.entries(selector || {}).every(([key, value]) => (labels || {})[key] === value);
}

function containersOf(spec) {
  return [...(spec.initContainers || []), ...spec.containers];
}

function checkSelectors(objects, found) {
  const pods = objects.filter((object) => object.spec && object.spec.template);
  for (const object of objects) {
    const { kind, spec } = object;
    if (spec && spec.template && kind !== 'Job' && !matches(spec.selector.matchLabels, spec.template.metadata.labels)) {
      found(object, 'its selector does not match its own pods');
    }
    const selector = kind === 'Service' ? spec.selector : kind === 'PodDisruptionBudget' ? spec.selector.matchLabels : undefined;
    if (selector && !pods.some((pod) => pod.metadata.namespace === object.metadata.namespace && matches(selector, pod.spec.template.metadata.labels))) {
      found(object, 'its selector matches no pods');
    }
  }
}

function checkPods(objects, exists, found) {
  for (const object of objects) {
    const { kind, metadata, spec } = object;
    if (kind === 'StatefulSet' && !exists('Service', spec.serviceName, metadata.namespace)) found(object, `there is no service ${spec.serviceName}`);
    for (const pod of podSpecs(object)) {
      const account = pod.serviceAccountName;
      if (account && !exists('ServiceAccount', account, metadata.namespace)) found(object, `there is no service account ${account}`);
      const volumes = new Set([...(pod.volumes || []), ...(spec.volumeClaimTemplates || []).map((claim) => claim.metadata)].map((one) => one.name));
      for (const container of containersOf(pod)) {
        for (const mount of container.volumeMounts || []) {
          if (!volumes.has(mount.name)) found(object, `container ${container.name} mounts ${mount.name}, which is no volume`);
        }
        const ports = new Set((container.ports || []).map((port) => port.name));
        for (const probe of ['startupProbe', 'readinessProbe', 'livenessProbe']) {
          const action = (container[probe] || {}).httpGet || (container[probe] || {}).tcpSocket;
          if (action && typeof action.port === 'string' && !ports.has(action.port)) found(object, `${probe} of ${container.name}: there is no port ${action.port}`);
        }
      }
    }
  }
}

/** A budget that lets nobody go, or that a broken pod can hold up for ever. */
function checkBudgets(objects, found) {
  for (const object of objects.filter((one) => one.kind === 'PodDisruptionBudget')) {
    const { spec } = object;
    if (spec.minAvailable !== undefined || !(parseInt(spec.maxUnavailable, 10) >= 1)) found(object, 'it can stop a drain for ever: say maxUnavailable, at least 1');
    if (spec.unhealthyPodEvictionPolicy !== 'AlwaysAllow') found(object, 'a pod that is not ready can stop a drain: unhealthyPodEvictionPolicy: AlwaysAllow');
  }
}

function checkOthers(objects, exists, found) {
  const drivers = new Set(objects.filter((one) => one.kind === 'CSIDriver').map((one) => one.metadata.name));
  for (const object of objects) {
    if (object.roleRef && !exists(object.roleRef.kind, object.roleRef.name, object.metadata.namespace)) found(object, `there is no ${object.roleRef.kind} ${object.roleRef.name}`);
    for (const subject of object.subjects || []) {
      if (!exists(subject.kind, subject.name, subject.namespace)) found(object, `there is no ${subject.kind} ${subject.name} in ${subject.namespace}`);
    }
    const driver = object.kind === 'StorageClass' ? object.provisioner : object.kind === 'VolumeSnapshotClass' ? object.driver : undefined;
    if (driver && drivers.size > 0 && !drivers.has(driver)) found(object, `there is no CSI driver ${driver}`);
  }
}

function flagsOf(program, binDir) {
  const help = execFileSync(path.join(binDir, program), ['--help'], { encoding: 'utf8' });
  return new Set(help.match(/--[a-z][a-z0-9-]*/g));
}

function checkFlags(objects, binDir, found) {
  const known = new Map();
  for (const object of objects) {
    for (const pod of podSpecs(object)) {
      for (const container of containersOf(pod)) {
        const ours = /(^|\/)agro:/.test(container.image);
        const program = container.command ? path.basename(container.command[0]) : 'agro';
        if (!ours || !OURS.includes(program)) continue;
        if (!known.has(program)) known.set(program, flagsOf(program, binDir));
        for (const argument of container.args || []) {
          const flag = argument.split('=')[0];
          if (!flag.startsWith('--') || !known.get(program).has(flag)) found(object, `${program} has no option ${flag}`);
        }
      }
    }
  }
}

/** Shape: `objects` are all of one kustomization. Answers lines. */
function problemsOf(objects, binDir) {
  const problems = [];
  const found = (object, text) => problems.push(`${object.kind} ${object.metadata.name}: ${text}`);
  const exists = (kind, name, namespace) => objects.some((object) =>
    object.kind === kind && object.metadata.name === name && (object.metadata.namespace === undefined || object.metadata.namespace === namespace));
  const names = new Set();
  for (const object of objects) {
    const name = `${object.kind} ${object.metadata.namespace || ''}/${object.metadata.name}`;
    if (names.has(name)) found(object, 'it is there twice');
    names.add(name);
  }
  checkSelectors(objects, found);
  checkPods(objects, exists, found);
  checkBudgets(objects, found);
  checkOthers(objects, exists, found);
  checkFlags(objects, binDir, found);
  return problems;
}

module.exports = { problemsOf };
