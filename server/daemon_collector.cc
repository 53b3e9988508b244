#include "server/daemon_collector.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/adapters/adapter_info.h"
#include "server/adapters/adapter_store.h"
#include "server/common/error.h"
#include "server/engine/engine.h"
#include "server/scheduling/scheduler_load.h"

namespace graft {
namespace {

using Families = std::vector<prometheus::MetricFamily>;
using Labels = std::map<std::string, std::string>;

// A new family, until the next is added.
prometheus::MetricFamily& Add(Families& families, prometheus::MetricType type,
                              const char* name, const char* help) {
  prometheus::MetricFamily& family = families.emplace_back();
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

prometheus::MetricFamily& AddGauge(Families& families, const char* name,
                                   const char* help) {
  return Add(families, prometheus::MetricType::Gauge, name, help);
}

prometheus::MetricFamily& AddCounter(Families& families, const char* name,
                                     const char* help) {
  return Add(families, prometheus::MetricType::Counter, name, help);
}

template <typename Number>
void AddValue(prometheus::MetricFamily& family, Number value,
              const Labels& labels = {}) {
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  for (const auto& [name, text] : labels) metric.label.push_back({name, text});
  const auto number = static_cast<double>(value);
  if (family.type == prometheus::MetricType::Counter) {
    metric.counter.value = number;
  } else {
    metric.gauge.value = number;
  }
}

// How many things have the same labels.
using Counts = std::map<Labels, int>;

void AddCounts(const Counts& counts, prometheus::MetricFamily& family) {
  for (const auto& [labels, count] : counts) AddValue(family, count, labels);
}

void AddLoad(const SchedulerLoad& load, BoundedNames& names,
             Families& families) {
  AddValue(
      AddGauge(families, "graft_requests_running", "Requests that have begun"),
      load.running);
  AddValue(AddGauge(families, "graft_requests_waiting",
                    "Requests that were accepted and have not begun"),
           load.waiting);
  AddValue(AddGauge(families, "graft_backlog_seconds",
                    "Until all that was accepted is done, as far as known"),
           absl::ToDoubleSeconds(load.backlog));
  Counts merged;
  for (const AppliedAdapter& adapter : load.resident) {
    ++merged[{{"adapter", names.Label(adapter.name)}}];
  }
  AddCounts(merged,
            AddGauge(families, "graft_adapter_merged",
                     "1 for each adapter that is merged into the weights; "
                     "after the first 1000 names, adapter is _other, and the "
                     "value their number"));
}

void AddMemory(const MemoryUsage& memory, Families& families) {
  prometheus::MetricFamily& bytes = AddGauge(
      families, "graft_memory_bytes", "Bytes on the device, by what they hold");
  AddValue(bytes, memory.base_bytes, {{"kind", "base"}});
  AddValue(bytes, memory.restore_bytes, {{"kind", "restore"}});
  AddValue(bytes, memory.restore_reserved_bytes,
           {{"kind", "restore_reserved"}});
  AddValue(bytes, memory.adapter_bytes, {{"kind", "adapters"}});
  if (memory.device_total_bytes == 0) return;
  AddValue(AddGauge(families, "graft_gpu_memory_used_bytes",
                    "Bytes of the GPU's memory in use, by anybody"),
           memory.device_used_bytes);
  AddValue(AddGauge(families, "graft_gpu_memory_total_bytes",
                    "Bytes of the GPU's memory"),
           memory.device_total_bytes);
}

void AddAdapters(const std::vector<AdapterInfo>& adapters, BoundedNames& names,
                 Families& families) {
  Counts loaded;
  for (const AdapterInfo& adapter : adapters) {
    if (adapter.residency == AdapterResidency::kDisk) continue;
    ++loaded[{{"adapter", names.Label(adapter.name)},
              {"level", std::string(AdapterResidencyName(adapter.residency))},
              {"pinned", adapter.pinned ? "true" : "false"}}];
  }
  AddCounts(loaded,
            AddGauge(families, "graft_adapter_loaded",
                     "1 for each adapter that is in memory, by the level where "
                     "a request finds it: host or device; after the first 1000 "
                     "names, adapter is _other, and the value their number"));
}

void AddStore(const AdapterStoreStats& stats, Families& families) {
  prometheus::MetricFamily& loaded =
      AddGauge(families, "graft_adapters_loaded",
               "Contents of adapters in memory; what is on the device is in "
               "host memory, too");
  AddValue(loaded, stats.host_adapters, {{"level", "host"}});
  AddValue(loaded, stats.device_adapters, {{"level", "device"}});
  prometheus::MetricFamily& bytes =
      AddGauge(families, "graft_adapter_bytes", "Bytes that adapters take");
  AddValue(bytes, stats.host_bytes, {{"level", "host"}});
  AddValue(bytes, stats.device_bytes, {{"level", "device"}});
  prometheus::MetricFamily& loads =
      AddCounter(families, "graft_adapter_loads_total",
                 "Loads of adapters, on first use and of changed files, too");
  AddValue(loads, stats.loads, {{"result", "ok"}});
  AddValue(loads, stats.loads_repeated, {{"result", "already_loaded"}});
  AddValue(loads, stats.loads_failed, {{"result", "error"}});
  prometheus::MetricFamily& evictions = AddCounter(
      families, "graft_adapter_evictions_total",
      "Adapters that gave way to others, by the level that was full");
  AddValue(evictions, stats.host_evictions, {{"tier", "host"}});
  AddValue(evictions, stats.device_evictions, {{"tier", "device"}});
  AddValue(AddCounter(families, "graft_adapter_cache_hits_total",
                      "Adapters of requests that were on the device"),
           stats.hits);
  AddValue(AddCounter(families, "graft_adapter_cache_misses_total",
                      "Adapters of requests that had to be read or laid out"),
           stats.misses);
}

// What routers of the Gateway API read: the value is the time, the adapters are
// in the labels. Running are those that are merged, waiting the others that
// requests use or, in `loading`, have loaded.
void AddLoraRequests(const SchedulerLoad& load,
                     const std::vector<AdapterInfo>& adapters,
                     const std::vector<std::string>& loading, int max_adapters,
                     Families& families) {
  std::vector<std::string> running;
  std::set<std::string> waiting(loading.begin(), loading.end());
  for (const AdapterInfo& adapter : adapters) {
    if (adapter.in_flight == 0) continue;
    const bool merged = std::any_of(load.resident.begin(), load.resident.end(),
                                    [&adapter](const AppliedAdapter& resident) {
                                      return resident.name == adapter.name;
                                    });
    if (merged) {
      running.push_back(adapter.name);
    } else {
      waiting.insert(adapter.name);
    }
  }
  for (const std::string& name : running) waiting.erase(name);
  AddValue(AddGauge(families, "graft_lora_requests_info",
                    "Adapters of requests, in the labels; the value is the "
                    "time, in seconds since 1970"),
           absl::ToUnixSeconds(absl::Now()),
           {{"max_lora", absl::StrCat(max_adapters)},
            {"running_lora_adapters", absl::StrJoin(running, ",")},
            {"waiting_lora_adapters", absl::StrJoin(waiting, ",")}});
}

void AddModel(const EngineInfo& info, Families& families) {
  AddValue(AddGauge(families, "graft_model_info", "What is served; always 1"),
           1,
           {{"model", EscapeUntrusted(info.model_name)},
            {"family", std::string(BaseFamilyName(info.family))},
            {"device", info.device},
            {"dtype", info.dtype},
            {"restore", info.restore},
            {"base_sha256", info.base_sha256}});
}

// Under the name that all Prometheus clients use.
void AddProcess(Families& families) {
  std::ifstream file("/proc/self/statm");  // in pages: total, resident
  int64_t total = 0;
  int64_t resident = 0;
  if (!(file >> total >> resident)) return;
  AddValue(AddGauge(families, "process_resident_memory_bytes",
                    "Bytes of memory that the process occupies"),
           resident * sysconf(_SC_PAGESIZE));
}

}  // namespace

Families DaemonCollector::Collect() const {
  Families families;
  AddProcess(families);
  const Backend* const backend = backend_;
  if (backend == nullptr) return families;
  const SchedulerLoad load = backend->scheduler->load();
  const RequestLoader::Load loading = backend->requests->load();
  const std::vector<AdapterInfo> adapters = backend->adapters->List();
  AddLoad(load, adapter_names_, families);
  AddValue(AddGauge(families, "graft_requests_loading",
                    "Requests whose adapters are being loaded, or that wait "
                    "for room on the device"),
           loading.requests);
  AddMemory(backend->engine->memory(), families);
  AddAdapters(adapters, adapter_names_, families);
  AddStore(backend->adapters->stats(), families);
  AddLoraRequests(load, adapters, loading.adapters,
                  backend->limits.max_adapters, families);
  AddModel(backend->engine->info(), families);
  return families;
}

}  // namespace graft
