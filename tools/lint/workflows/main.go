// Command workflows checks WorkflowTemplates, CronWorkflows and Workflows as `argo lint --offline` does: with the same
// functions of Argo Workflows, but without the clients of a server, which are a third of that program.
//
//	workflows FILE...
//
// What a file refers to is looked for in the given files. One line for each problem, and exit code 1.
package main

import (
	"context"
	"fmt"
	"os"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/util/logging"
	"github.com/argoproj/argo-workflows/v4/workflow/common"
	"github.com/argoproj/argo-workflows/v4/workflow/validate"
)

type object struct {
	file, what string
	body       any
}

// templates has them by namespace and name.
type templates map[[2]string]*wfv1.WorkflowTemplate

type clusterTemplates map[string]*wfv1.ClusterWorkflowTemplate

type namespace struct {
	name string
	all  templates
}

func (in namespace) Get(_ context.Context, name string) (*wfv1.WorkflowTemplate, error) {
	if found, ok := in.all[[2]string{in.name, name}]; ok {
		return found, nil
	}
	return nil, fmt.Errorf("no WorkflowTemplate %q in namespace %q", name, in.name)
}

func (all clusterTemplates) Get(_ context.Context, name string) (*wfv1.ClusterWorkflowTemplate, error) {
	if found, ok := all[name]; ok {
		return found, nil
	}
	return nil, fmt.Errorf("no ClusterWorkflowTemplate %q", name)
}

func main() {
	ctx := logging.WithLogger(context.Background(), logging.NewSlogLogger(logging.Error, logging.Text))
	failed := false
	problem := func(file, what string, err error) {
		fmt.Printf("%s: %s: %v\n", file, what, err)
		failed = true
	}
	var objects []object
	local, cluster := templates{}, clusterTemplates{}
	for _, file := range os.Args[1:] {
		text, err := os.ReadFile(file)
		if err != nil {
			problem(file, "file", err)
			continue
		}
		for _, parsed := range common.ParseObjects(ctx, text, true) {
			what, again := "", false
			switch body := parsed.Object.(type) {
			case *wfv1.WorkflowTemplate:
				key := [2]string{body.Namespace, body.Name}
				_, again = local[key]
				what, local[key] = "WorkflowTemplate "+body.Name, body
			case *wfv1.ClusterWorkflowTemplate:
				_, again = cluster[body.Name]
				what, cluster[body.Name] = "ClusterWorkflowTemplate "+body.Name, body
			case *wfv1.CronWorkflow:
				what = "CronWorkflow " + body.Name
			case *wfv1.Workflow:
				what = "Workflow " + body.Name + body.GenerateName
			default:
				continue // of another project
			}
			if parsed.Err != nil {
				problem(file, what, parsed.Err)
			} else if again {
				problem(file, what, fmt.Errorf("there is another one of this name"))
			}
			objects = append(objects, object{file, what, parsed.Object})
		}
	}
	for _, each := range objects {
		var err error
		switch body := each.body.(type) {
		case *wfv1.WorkflowTemplate:
			err = validate.WorkflowTemplate(ctx, namespace{body.Namespace, local}, cluster, body, nil, validate.Opts{Lint: true})
		case *wfv1.ClusterWorkflowTemplate:
			err = validate.ClusterWorkflowTemplate(ctx, namespace{"", local}, cluster, body, nil, validate.Opts{Lint: true})
		case *wfv1.CronWorkflow:
			err = validate.CronWorkflow(ctx, namespace{body.Namespace, local}, cluster, body, nil)
		case *wfv1.Workflow:
			err = validate.Workflow(ctx, namespace{body.Namespace, local}, cluster, body, nil, validate.Opts{Lint: true})
		}
		if err != nil {
			problem(each.file, each.what, err)
		}
	}
	if failed {
		os.Exit(1)
	}
}
