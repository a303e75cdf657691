"""Flags and messages that TensorFlow Serving accepts, taken from its source."""

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory
from google.protobuf import text_format
from google.protobuf import wrappers_pb2

# From tensorflow_serving/model_servers/main.cc, releases 2.19.1 and 2.20.0; most are much older. The server only warns
# about an unknown flag and then ignores it.
SERVER_FLAGS = """
    port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
    enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
    enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name
    model_base_path num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros
    file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_session_config_file tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism
    use_alts_credentials ssl_config_file platform_config_file per_process_gpu_memory_fraction saved_model_tags
    grpc_channel_arguments grpc_max_threads enable_model_warmup num_request_iterations_for_warmup version
    monitoring_config_file remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check xla_cpu_compilation_enabled
    xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file mixed_precision skip_initialize_tpu
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content
"""

# The wheel of tensorflow-serving-api lacks these messages. The fields and numbers are from
# tensorflow_serving/config/monitoring_config.proto, ssl_config.proto and
# servables/tensorflow/session_bundle_config.proto (BatchingParameters).
PROTOS = """
name: "messages.proto" package: "serving" syntax: "proto3" dependency: "google/protobuf/wrappers.proto"
message_type { name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "path" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type: TYPE_MESSAGE type_name: ".serving.PrometheusConfig"
          label: LABEL_OPTIONAL } }
message_type { name: "SSLConfig"
  field { name: "server_key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "server_cert" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "custom_ca" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "client_verify" number: 4 type: TYPE_BOOL label: LABEL_OPTIONAL } }
message_type { name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value"
          label: LABEL_OPTIONAL }
  field { name: "batch_timeout_micros" number: 2 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value"
          label: LABEL_OPTIONAL }
  field { name: "max_enqueued_batches" number: 3 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value"
          label: LABEL_OPTIONAL }
  field { name: "num_batch_threads" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value"
          label: LABEL_OPTIONAL }
  field { name: "thread_pool_name" number: 5 type: TYPE_MESSAGE type_name: ".google.protobuf.StringValue"
          label: LABEL_OPTIONAL }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "enable_large_batch_splitting" number: 8 type: TYPE_MESSAGE type_name: ".google.protobuf.BoolValue"
          label: LABEL_OPTIONAL }
  field { name: "max_execution_batch_size" number: 9 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value"
          label: LABEL_OPTIONAL } }
"""


def parse(name, text):
    """Parses a text file as the server does."""
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(text_format.Parse(PROTOS, descriptor_pb2.FileDescriptorProto()))
    return text_format.Parse(text, message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}"))())


def parse_models(path):
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    models = text_format.Parse(path.read_text(), config.ModelServerConfig()).model_config_list.config
    assert {model.model_platform for model in models} == {"tensorflow"}
    return {model.name: model for model in models}


def flags_of(command):
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in command)
    assert set(flags) <= set(SERVER_FLAGS.split())
    return flags
