#ifndef GRAFT_TESTS_INTEGRATION_SCRAPE_H_
#define GRAFT_TESTS_INTEGRATION_SCRAPE_H_

#include <string>

namespace graft {

// GET /metrics of 127.0.0.1: the metrics; empty if nobody answers.
std::string Scrape(int port);

}  // namespace graft

#endif  // GRAFT_TESTS_INTEGRATION_SCRAPE_H_
