#!/bin/sh
# Waits until all pods serve a version of the model, or serve it under a label.
#
#     sh kubernetes/wait_for_version.sh 2
#     sh kubernetes/wait_for_version.sh 2 canary
#
# NAMESPACE is the namespace of the pods, and MODEL the name of the model.
set -eu
version=$1
target=${2:+labels/$2}
path=v1/models/${MODEL:-faces}/${target:-versions/$version}/metadata
namespace=${NAMESPACE:-default}

serves() {
  kubectl get --raw "/api/v1/namespaces/$namespace/pods/$1:8501/proxy/$path" 2>/dev/null |
    grep -q "\"version\": *\"$version\""
}

pods=$(kubectl get pods --namespace "$namespace" --selector "app.kubernetes.io/name=${MODEL:-faces}" \
  --field-selector status.phase=Running --output 'jsonpath={.items[*].metadata.name}')
test -n "$pods" || { echo "no pod is running in the namespace $namespace" >&2; exit 1; }
for pod in $pods; do
  until serves "$pod"; do
    sleep 2
  done
  echo "$pod serves version $version${2:+ as $2}"
done
