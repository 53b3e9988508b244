#ifndef GRAFT_TESTS_CHAOS_METRICS_READER_H_
#define GRAFT_TESTS_CHAOS_METRICS_READER_H_

#include <map>
#include <string>

namespace graft {

// A port of the loopback that was free a moment ago.
int FreePort();

// Every sample on a daemon's page of metrics: `name{label="value"}`, as it is
// written there, to its number. Empty if nobody answers.
std::map<std::string, double> ReadMetrics(int port);

// The samples of `metric` with label method="METHOD", by their label code.
std::map<std::string, double> ByCode(
    const std::map<std::string, double>& metrics, const std::string& metric,
    const std::string& method);

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_METRICS_READER_H_
