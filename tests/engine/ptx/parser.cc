#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/engine/ptx/frame.h"
#include "tests/engine/ptx/module.h"
#include "tests/engine/ptx/tokens.h"

namespace graft::ptx {
namespace {

// Of a type or of an opcode that ends in one; 0 if it has none.
uint32_t BytesOfType(absl::string_view name) {
  const absl::string_view type = name.substr(name.rfind('.') + 1);
  uint32_t bits = 0;
  if (type == "pred") return 1;
  if (type.empty() || !absl::SimpleAtoi(type.substr(1), &bits)) return 0;
  return bits / 8;
}

class Parser {
 public:
  explicit Parser(absl::string_view text) : in_(text) {
    always_ = layout_.ConstantSlot(1);
    const auto special = [this](absl::string_view name) {
      const Slot slot = layout_.Allocate(4);
      layout_.Declare(name, {Variable::Kind::kRegister, slot, 4});
      return slot;
    };
    module_.special = {special("%tid.x"), special("%ctaid.x"),
                       special("%nctaid.x")};
  }

  absl::StatusOr<Module> Parse() {
    while (in_.ok() && !in_.Peek().empty()) ParseDirective();
    for (const auto& [at, name] : calls_) {
      const uint32_t entry = module_.functions[std::string(name)].entry;
      if (entry == Function::kNoBody) in_.Fail(absl::StrCat("no ", name));
      module_.operands[at] = entry;
    }
    if (!in_.ok()) return absl::InvalidArgumentError(in_.error());
    module_.constants = layout_.constants();
    module_.frame_bytes = layout_.bytes();
    return std::move(module_);
  }

 private:
  // ---- Directives -----------------------------------------------------------

  void ParseDirective() {
    const absl::string_view name = in_.Peek();
    if (name == ".version" || name == ".target" || name == ".address_size") {
      in_.SkipLine();
    } else if (in_.Accept(".shared")) {
      ParseShared();
    } else if (in_.Accept(".entry")) {
      ParseFunction(/*is_kernel=*/true);
    } else if (in_.Accept(".func")) {
      ParseFunction(/*is_kernel=*/false);
    } else if (name == ".extern" || name == ".visible" || name == ".weak") {
      in_.Next();
    } else {
      in_.Fail(absl::StrCat("unknown directive ", name));
    }
  }

  // What a launch brings, alone: .shared .align 16 .b8 name[];
  void ParseShared() {
    if (in_.Accept(".align")) in_.Number();
    in_.Next();
    layout_.Declare(in_.Next(),
                    {Variable::Kind::kShared, SharedMemory::kBase, 0});
    in_.Expect("[");
    in_.Expect("]");
    in_.Expect(";");
  }

  struct NamedParameter {
    absl::string_view name;
    Parameter parameter;
  };

  // .param .align 4 .b8 name[16], behind the first word.
  NamedParameter ParseParameter() {
    if (in_.Accept(".align")) in_.Number();
    uint32_t bytes = BytesOfType(in_.Next());
    const absl::string_view name = in_.Next();
    if (in_.Accept("[")) {
      bytes *= in_.Number();
      in_.Expect("]");
    }
    if (bytes == 0) in_.Fail("a parameter without a size");
    return {name, {layout_.Allocate(bytes), bytes}};
  }

  // (.param ..., .param ...)
  std::vector<NamedParameter> ParseParameters() {
    std::vector<NamedParameter> parameters;
    in_.Expect("(");
    while (in_.ok() && !in_.Accept(")")) {
      in_.Expect(".param");
      parameters.push_back(ParseParameter());
      if (in_.Peek() != ")") in_.Expect(",");
    }
    return parameters;
  }

  // Names for the parameters of a function: those of its declaration, which
  // calls may have filled, or new ones.
  void DeclareParameters(const std::vector<NamedParameter>& named,
                         std::vector<Parameter>& parameters) {
    if (parameters.empty()) {
      for (const NamedParameter& one : named) {
        parameters.push_back(one.parameter);
      }
    }
    if (parameters.size() != named.size()) return in_.Fail("not as declared");
    for (size_t i = 0; i < named.size(); ++i) {
      layout_.Declare(named[i].name, {Variable::Kind::kParameter,
                                      parameters[i].slot, parameters[i].bytes});
    }
  }

  void ParseFunction(bool is_kernel) {
    layout_.OpenScope();
    std::vector<NamedParameter> results;
    if (in_.Peek() == "(") results = ParseParameters();
    Function& function = module_.functions[std::string(in_.Next())];
    function.is_kernel = is_kernel;
    DeclareParameters(results, function.results);
    DeclareParameters(ParseParameters(), function.parameters);
    while (in_.Peek() == ".maxntid" || in_.Peek() == ".minnctapersm") {
      const bool threads = in_.Next() == ".maxntid";
      if (threads) function.max_threads = 1;
      do {
        const uint32_t count = in_.Number();
        if (threads) function.max_threads *= count;
      } while (in_.Accept(","));
    }
    if (!in_.Accept(";")) {
      in_.Expect("{");
      function.entry = static_cast<uint32_t>(module_.code.size());
      ParseBody();
    }
    layout_.CloseScope();
  }

  // ---- Statements -----------------------------------------------------------

  void ParseBody() {
    labels_.clear();
    branches_.clear();
    int depth = 1;
    while (in_.ok() && depth > 0) {
      if (in_.Accept("{")) {
        layout_.OpenScope();
        ++depth;
      } else if (in_.Accept("}")) {
        if (--depth > 0) layout_.CloseScope();
      } else {
        ParseStatement();
      }
    }
    guard_ = always_;
    Emit(FallOff, nullptr, {});
    for (const auto& [at, label] : branches_) {
      const auto target = labels_.find(label);
      if (target == labels_.end()) return in_.Fail(absl::StrCat("no ", label));
      module_.operands[at] = target->second;
    }
  }

  void ParseStatement() {
    line_ = in_.line();
    guard_ = always_;
    if (in_.Accept("@")) {
      const bool negated = in_.Accept("!");
      guard_ = SlotOf(in_.Next()) | (negated ? 1 : 0);
    }
    const absl::string_view name = in_.Next();
    if (name == ".reg") {
      ParseRegisters();
    } else if (name == ".param") {
      const auto [local, parameter] = ParseParameter();
      layout_.Declare(
          local, {Variable::Kind::kParameter, parameter.slot, parameter.bytes});
      in_.Expect(";");
    } else if (name == ".pragma") {
      in_.Next();
      in_.Expect(";");
    } else if (in_.Accept(":")) {
      labels_[name] = static_cast<uint32_t>(module_.code.size());
    } else if (name == "bra" || name == "bra.uni") {
      branches_.emplace_back(module_.operands.size(), in_.Next());
      Emit(Branch, nullptr, {0});
      in_.Expect(";");
    } else if (name == "call.uni") {
      ParseCall();
    } else if (name == "ret") {
      Emit(Return, nullptr, {});
      in_.Expect(";");
    } else {
      ParseInstruction(name);
    }
  }

  // .reg .type name, name<count>;
  void ParseRegisters() {
    const uint32_t bytes = std::max(BytesOfType(in_.Next()), 4u);
    if (bytes > 8) return in_.Fail("registers of more than 64 bits");
    do {
      const absl::string_view name = in_.Next();
      if (in_.Accept("<")) {
        layout_.DeclareRegisters(name, in_.Number(), bytes);
        in_.Expect(">");
      } else {
        layout_.Declare(
            name, {Variable::Kind::kRegister, layout_.Allocate(bytes), bytes});
      }
    } while (in_.Accept(","));
    in_.Expect(";");
  }

  // call.uni (results), function, (parameters);
  void ParseCall() {
    const std::vector<Slot> results = ParseArguments();
    in_.Expect(",");
    const absl::string_view name = in_.Next();
    const auto function = module_.functions.find(std::string(name));
    if (function == module_.functions.end()) return in_.Fail("no function");
    in_.Expect(",");
    const std::vector<Slot> arguments = ParseArguments();
    in_.Expect(";");
    if (results.size() != function->second.results.size() ||
        arguments.size() != function->second.parameters.size()) {
      return in_.Fail("other parameters than the function's");
    }
    std::vector<Slot> call = {0, static_cast<Slot>(arguments.size())};
    for (size_t i = 0; i < arguments.size(); ++i) {
      const Parameter& to = function->second.parameters[i];
      call.insert(call.end(), {arguments[i], to.slot, to.bytes});
    }
    calls_.emplace_back(module_.operands.size(), name);
    Emit(Call, nullptr, call);
    std::vector<Slot> copy = {static_cast<Slot>(results.size())};
    for (size_t i = 0; i < results.size(); ++i) {
      const Parameter& from = function->second.results[i];
      copy.insert(copy.end(), {from.slot, results[i], from.bytes});
    }
    Emit(Copy, nullptr, copy);
  }

  std::vector<Slot> ParseArguments() {
    std::vector<Slot> slots;
    in_.Expect("(");
    while (in_.ok() && !in_.Accept(")")) {
      slots.push_back(SlotOf(in_.Next()));
      if (in_.Peek() != ")") in_.Expect(",");
    }
    return slots;
  }

  void ParseInstruction(absl::string_view name) {
    operands_.clear();
    cleared_.clear();
    int pair = -1;  // which operand is in braces
    for (int i = 0; in_.ok() && !in_.Accept(";"); ++i) {
      if (i > 0) in_.Expect(",");
      if (in_.Peek() == "{") pair = i;
      ParseOperand();
    }
    const std::string full =
        absl::StrCat(name, name != "mov.b64" || pair < 0 ? ""
                           : pair == 0                   ? ".unpack"
                                                         : ".pack");
    if (!in_.ok()) return;
    const Opcode* const opcode = FindOpcode(full);
    if (opcode == nullptr || opcode->num_operands != operands_.size()) {
      return in_.Fail(absl::StrCat("unknown instruction ", full, " with ",
                                   operands_.size(), " operands"),
                      line_);
    }
    Emit(opcode->run, opcode, operands_);
    if (!absl::StartsWith(name, "ld.") || BytesOfType(name) == 8) return;
    // A load that is narrower than its register clears the rest of it.
    for (const Slot slot : cleared_) {
      Emit(FindOpcode("mov.u32")->run, opcode,
           {slot + 4, layout_.ConstantSlot(0)});
    }
  }

  // One in the text, which may be several slots.
  void ParseOperand() {
    if (in_.Accept("{")) {
      do ParseOperand();
      while (in_.Accept(","));
      in_.Expect("}");
    } else if (in_.Accept("[")) {
      ParseAddress();
      in_.Expect("]");
    } else if (const std::optional<uint64_t> value = in_.AcceptConstant()) {
      operands_.push_back(layout_.ConstantSlot(*value));
    } else {
      const absl::string_view name = in_.Next();
      const Variable* const variable = layout_.Find(name);
      if (variable != nullptr && variable->bytes == 8) {
        cleared_.push_back(variable->slot);
      }
      operands_.push_back(SlotOf(name));
      if (in_.Accept("|")) ParseOperand();
    }
  }

  // Two slots, base and offset; one, the parameter's own, if it is in one.
  void ParseAddress() {
    const absl::string_view name = in_.Next();
    const Variable* const variable = layout_.Find(name);
    const bool parameter =
        variable != nullptr && variable->kind == Variable::Kind::kParameter;
    const uint32_t bytes = parameter ? variable->bytes : 0;
    const Slot base = SlotOf(name);
    uint64_t offset = 0;
    if (in_.Accept("+")) offset = in_.AcceptConstant().value_or(0);
    if (parameter) {
      if (offset >= bytes) return in_.Fail("beyond the parameter");
      operands_.push_back(base + static_cast<Slot>(offset));
    } else {
      operands_.push_back(base);
      operands_.push_back(layout_.ConstantSlot(offset));
    }
  }

  Slot SlotOf(absl::string_view name) {
    const Variable* const variable = layout_.Find(name);
    if (variable == nullptr) {
      in_.Fail(absl::StrCat("unknown name ", name));
      return 0;
    }
    return variable->kind == Variable::Kind::kShared
               ? layout_.ConstantSlot(variable->slot)
               : variable->slot;
  }

  void Emit(Operation run, const Opcode* opcode,
            const std::vector<Slot>& operands) {
    module_.code.push_back(
        {run, static_cast<uint32_t>(module_.operands.size()), guard_});
    module_.origins.push_back({opcode, line_});
    module_.operands.insert(module_.operands.end(), operands.begin(),
                            operands.end());
  }

  TokenReader in_;
  int line_ = 0;  // of the statement at hand
  Module module_;
  FrameLayout layout_;
  Slot always_ = 0;
  absl::flat_hash_map<absl::string_view, uint32_t> labels_;
  // Operands that become the pc of a label, or of a function.
  std::vector<std::pair<size_t, absl::string_view>> branches_;
  std::vector<std::pair<size_t, absl::string_view>> calls_;
  Slot guard_ = 0;              // of the instruction at hand
  std::vector<Slot> operands_;  // its
  std::vector<Slot> cleared_;   // those of them that are of 64 bits
};

}  // namespace

absl::StatusOr<Module> ParseModule(absl::string_view text) {
  return Parser(text).Parse();
}

}  // namespace graft::ptx
